"""Whether a server answers, asked in its own protocol: an open port proves nothing, a container's proxy opens it first.

A probe opens one connection, says one thing and closes; it returns False for "not yet" and never raises for it.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable

PROBE_TIMEOUT_S = 2.0

Probe = Callable[[str, int], Awaitable[bool]]

_API_VERSIONS = struct.pack(">hhih6s", 18, 0, 1, 6, b"dynlog")


async def redis_answers(host: str, port: int) -> bool:
    """PING; a server that wants a password is ready, one that still loads its data is not."""
    return (await _ask(host, port, b"PING\r\n", 5)).startswith((b"+PONG", b"-NOAU"))


async def nats_answers(host: str, port: int) -> bool:
    """A NATS server speaks first."""
    return await _ask(host, port, b"", 5) == b"INFO "


async def etcd_answers(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """The health check, which says yes once there is a leader: before that the port is open and every call waits."""
    request = f"GET /health HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode()
    return (await _ask(host, port, request, 12, tls)).endswith(b" 200")


async def minio_answers(host: str, port: int) -> bool:
    """The cluster check: the liveness check says 200 before the disks are there."""
    request = f"GET /minio/health/cluster HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode()
    return (await _ask(host, port, request, 12)).endswith(b" 200")


async def kafka_answers(host: str, port: int) -> bool:
    """ApiVersions v0 with correlation id 1; a broker answers once it takes requests."""
    request = struct.pack(">i", len(_API_VERSIONS)) + _API_VERSIONS
    return (await _ask(host, port, request, 10))[4:] == struct.pack(">ih", 1, 0)


async def _ask(host: str, port: int, request: bytes, size: int, tls: ssl.SSLContext | None = None) -> bytes:
    """The first ``size`` bytes of the answer, or nothing."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            try:
                writer.write(request)
                return await reader.readexactly(size)
            finally:
                writer.transport.abort()
    except (OSError, EOFError, TimeoutError):
        return b""
