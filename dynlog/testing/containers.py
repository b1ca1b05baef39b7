"""A server from a container, through testcontainers: started with a deadline, ready when yielded, removed by its id.

testcontainers and docker are imported here only when a container may be wanted.  Where the daemon listens, how its
containers are reached and whether the Ryuk reaper runs beside them are testcontainers' own settings (DOCKER_HOST,
TESTCONTAINERS_HOST_OVERRIDE, TESTCONTAINERS_RYUK_DISABLED, ...).
"""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dynlog.testing.kinds import RunningServer, ServerKind
from dynlog.testing.process import ServerNotAvailable, free_port

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

DEFAULT_HOST = "unix:///var/run/docker.sock"
PING_TIMEOUT_S = 5
PULL_TIMEOUT_S = 300.0
_LOG_TAIL_BYTES = 4_000
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def docker_problem() -> str | None:
    """Why there can be no containers here (no package, no daemon), or None if a daemon answers."""
    try:
        client_module = importlib.import_module("testcontainers.core.docker_client")
    except ModuleNotFoundError as error:
        return f"the package {error.name!r} is not installed (pip install 'dynlog[testing]')"
    where = client_module.get_docker_host() or DEFAULT_HOST
    try:
        # First with a socket of our own: docker's client leaves an open one behind when nobody listens.
        _knock(where)
        client = client_module.DockerClient(timeout=PING_TIMEOUT_S).client
        try:
            client.ping()
        finally:
            client.close()
    except Exception as error:  # docker raises its own, requests' and urllib3's errors for a daemon that is not there
        return f"no Docker daemon answers at {where} ({_first_line(error)})"
    return None


def _knock(where: str) -> None:
    """Raises OSError if nobody listens there."""
    url = urlsplit(where)
    if url.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(PING_TIMEOUT_S)
            knocking.connect(url.path)
    elif url.hostname and url.port:
        socket.create_connection((url.hostname, url.port), PING_TIMEOUT_S).close()


@contextmanager
def container(kind: ServerKind, image: str) -> Iterator[RunningServer]:
    """A container that was started, maybe not ready yet; its log's end is a note on whatever the block raises.

    Raises ServerNotAvailable when the image cannot be had or the container does not start.
    """
    from testcontainers.core.container import DockerContainer

    running = DockerContainer(image)
    try:
        _pull(running, image)
        host = _configure(running, kind)
        try:
            running.start()
            port = int(running.get_exposed_port(kind.port))
            host = host or running.get_container_host_ip()
        except Exception as error:
            raise ServerNotAvailable(f"a container of {image} did not start: {_first_line(error)}") from error
        source = f"container {running.get_container_id()[:12]} of {image}"
        try:
            yield RunningServer(kind.name, host, port, source, kind.user, kind.password)
        except BaseException as error:
            error.add_note(f"the end of the log of {source}:\n{_log_tail(running)}")
            raise
    finally:
        # Removes it by its id, with its volumes, also one that was created and did not start.
        running.stop()


def _configure(running: DockerContainer, kind: ServerKind) -> str | None:
    """Ports, environment and command; the host by which clients reach it if that is known before the start."""
    daemon = running.get_docker_client()
    local = daemon.host() in _LOOPBACK and daemon.get_connection_mode().value == "docker_host"
    outer = free_port() if kind.advertises else None
    if local:
        # What a test starts is nobody else's to reach.  (docker-py takes a tuple here, with or without a port.)
        address: Any = ("127.0.0.1",) if outer is None else ("127.0.0.1", outer)
        running.ports[f"{kind.port}/tcp"] = address
    else:
        running.with_bind_ports(kind.port, outer)
    host = "127.0.0.1" if local else daemon.host()
    for name, value in kind.environment.items():
        running.with_env(name, value.format(host=host, port=outer))
    if kind.command is not None:
        running.with_command(list(kind.command))
    return host if local else None


def _pull(running: DockerContainer, image: str) -> None:
    """Gets the image unless it is there; testcontainers would do it too, but without a deadline."""
    import docker.errors

    client = running.get_docker_client().client
    try:
        client.images.get(image)
        return
    except docker.errors.ImageNotFound:
        pass
    name, _, tag = image.partition("@")[0].rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "latest")
    deadline = time.monotonic() + PULL_TIMEOUT_S
    try:
        for event in client.api.pull(name, tag=tag, stream=True, decode=True):
            if "error" in event:
                raise ServerNotAvailable(f"the image {image} cannot be pulled: {event['error']}")
            if time.monotonic() > deadline:
                raise ServerNotAvailable(f"the image {image} was not pulled within {PULL_TIMEOUT_S:g} s")
    except (docker.errors.DockerException, OSError) as error:
        raise ServerNotAvailable(f"the image {image} is not here and cannot be pulled: {_first_line(error)}") from None


def _log_tail(running: DockerContainer) -> str:
    try:
        log: bytes = running.get_wrapped_container().logs(tail=100)
    except Exception as error:  # the daemon may have gone with the container
        return f"(not readable: {_first_line(error)})"
    return log[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
