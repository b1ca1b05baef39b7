"""Where a test's log or objects lie, so that no two tests see each other's: URLs of a namespace within a server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlencode

from dynlog.testing.kinds import RunningServer


def embedded_log_url(engine: str, namespace: str, folder: Path) -> str:
    """A log in this process or in the test's folder."""
    return f"memory://{namespace}" if engine == "memory" else f"sqlite://{quote(str(folder / 'dynlog.db'))}"


def embedded_objects_url(store: str, namespace: str, folder: Path) -> str:
    """A store in this process or in the test's folder."""
    return f"memory://{namespace}" if store == "memory" else f"file://{quote(str(folder / 'objects'))}"


def server_log_url(server: RunningServer, namespace: str) -> str:
    """A log under a prefix of its own on the server."""
    return f"{server.url}/{namespace}" if server.kind == "kafka" else f"{server.url}/0?prefix={namespace}"


def bucket_url(server: RunningServer, bucket: str) -> str:
    """A bucket of its own on the server."""
    endpoint = urlencode({"endpoint": server.url})
    return f"s3://{quote(server.user)}:{quote(server.password)}@{bucket}?{endpoint}"
