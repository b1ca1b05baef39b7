"""A MinIO server for a test: one drive in the test's folder, on loopback, with credentials of its own."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from dynlog.testing.process import NativeServer


class MinioServer(NativeServer):
    """One MinIO process over one drive; ``program`` is where ``scripts/servers/minio.sh`` put it.

    ``certificates`` is a folder with ``public.crt`` and ``private.key``: the server then speaks TLS and nothing else.
    """

    name = "minio"
    user = "dynlog"
    region = "us-east-1"

    def __init__(
        self, folder: Path, *, program: str | Path = "minio", port: int | None = None, certificates: Path | None = None
    ) -> None:
        super().__init__(folder, port=port)
        self.password = secrets.token_hex(12)
        self._program = program
        self._certificates = certificates

    @property
    def endpoint(self) -> str:
        """Where it answers, as ``http://127.0.0.1:port``."""
        return f"{'https' if self._certificates else 'http'}://127.0.0.1:{self.port}"

    def url(self, bucket: str, prefix: str = "", *, endpoint: str | None = None) -> str:
        """The URL of an object store in a bucket, with credentials; ``endpoint`` is a proxy before the server."""
        place = f"{bucket}/{prefix}" if prefix else bucket
        return f"s3://{self.user}:{self.password}@{place}?endpoint={endpoint or self.endpoint}&region={self.region}"

    async def make_bucket(self, bucket: str) -> None:
        """Creates the bucket; harmless if it is there."""
        await asyncio.to_thread((self.folder / "data" / bucket).mkdir, parents=True, exist_ok=True)

    def command(self) -> Sequence[str | Path]:
        certificates = self._certificates or self.folder / "no-certificates"
        # MinIO takes its credentials from the environment only; env(1) keeps them to this one process.
        return (
            "env", f"MINIO_ROOT_USER={self.user}", f"MINIO_ROOT_PASSWORD={self.password}", "MINIO_BROWSER=off",
            "MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off", "MINIO_SCANNER_SPEED=slowest",
            self._program, "server", "--quiet", "--address", f"127.0.0.1:{self.port}", "--certs-dir", certificates,
            self.folder / "data",
        )  # fmt: skip

    async def ready(self) -> bool:
        return await asyncio.to_thread(self._answers)

    def _answers(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it is up, not whose it is
        try:
            with urllib.request.urlopen(f"{self.endpoint}/minio/health/ready", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
