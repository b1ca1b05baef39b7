"""One connection to one run of a server, and what that run says of itself: version, role, durability.

A connection cannot outlive the server process that it was made to; so what is learnt while connecting (above all the
run's id) is true for every reply that comes over it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import RedisError, ResponseError

from dynlog.errors import ConfigurationError, LogUnavailable
from dynlog.storage.redis.failures import passes, refused, unreachable
from dynlog.storage.redis.options import Settings
from dynlog.topics import Durability, DurabilityLevel

CONNECT_TIMEOUT_S = 5.0
OLDEST = (6, 2)
"""XTRIM MINID and exclusive ranges came with Redis 6.2."""
_logger = logging.getLogger("dynlog.redis")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server said when a connection was made to it.

    ``strong``: what it acknowledges is on its disk, and no replica could take over without it.  ``ahead_ms`` is its
    clock minus ours.
    """

    run: str
    version: tuple[int, ...]
    durability: Durability
    strong: bool
    ahead_ms: int


@dataclass(frozen=True, slots=True)
class Link:
    """A connection that is ready."""

    connection: Connection
    facts: Facts

    async def drop(self) -> None:
        """Closes it without waiting for the server."""
        await drop(self.connection)


def server_name(settings: Settings) -> str:
    """The server as messages name it."""
    return f"Redis at {settings.host}:{settings.port}"


async def connect(settings: Settings, now_ms: int) -> Link:
    """A connection, authenticated and inspected.

    Raises ConfigurationError for what retrying cannot change, LogUnavailable for everything else, in a few seconds.
    """
    name = server_name(settings)
    try:
        connection = _connection(settings)
    except (RedisError, OSError, ValueError) as error:
        raise unreachable(error, name, tls=settings.tls) from error
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
            return Link(connection, await _inspect(connection, settings, now_ms))
    except TimeoutError:
        await drop(connection)
        raise LogUnavailable(
            f"{name} did not answer for {CONNECT_TIMEOUT_S:g} s while connecting: is it the right host and port, is "
            f"the server running{', and does it speak TLS (rediss://)' if settings.tls else ''}?"
        ) from None
    except ResponseError as error:
        await drop(connection)
        raise refused(error, name) from error
    except (RedisError, OSError, EOFError) as error:
        await drop(connection)
        if passes(error):
            raise LogUnavailable(f"{name} is still loading its data") from error
        if type(error).__name__.startswith("Auth"):
            raise refused(error, name) from error
        raise unreachable(error, name, tls=settings.tls) from error
    except BaseException:
        await drop(connection)
        raise


async def drop(connection: Connection) -> None:
    """Closes a connection, whatever state it is in, without waiting for its server."""
    try:
        await connection.disconnect(nowait=True)
    except (RedisError, OSError):
        _logger.debug("a broken connection did not close cleanly", exc_info=True)


def _connection(settings: Settings) -> Connection:
    # No socket_timeout: redis-py 8 sets 5 s by itself, which would end a read that waits; deadlines are our own.
    common: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "username": settings.user,
        "password": settings.password,
        "db": settings.db,
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
    }
    if not settings.tls:
        return Connection(**common)
    return SSLConnection(
        **common,
        ssl_ca_certs=settings.tls_ca,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_cert_reqs="required" if settings.tls_verify else "none",
        ssl_check_hostname=settings.tls_verify,
    )


async def ask(connection: Connection, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
    """The replies to a few commands sent at once; error replies among them as exceptions."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            replies.append(error)
    return replies


async def _inspect(connection: Connection, settings: Settings, now_ms: int) -> Facts:
    name = server_name(settings)
    info, replication, config, eviction, clock = await ask(
        connection,
        [
            ("INFO", "server"),
            ("INFO", "replication"),
            ("CONFIG", "GET", "append*"),
            ("CONFIG", "GET", "maxmemory*"),
            ("TIME",),
        ],
    )
    for reply in (info, replication, clock):
        if isinstance(reply, BaseException):
            raise refused(reply, name)
    server, roles = _fields(info), _fields(replication)
    version = server.get("redis_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise ConfigurationError(f"{name} is version {version}: dynlog needs {OLDEST[0]}.{OLDEST[1]} or newer")
    if server.get("redis_mode") == "cluster":
        raise ConfigurationError(f"{name} is a node of a Redis Cluster, which is not supported: name a single server")
    if roles.get("role") != "master":
        raise LogUnavailable(f"{name} is a read-only replica of {roles.get('master_host')}: name the primary instead")
    durability = _durability(config, name)
    _check_eviction(eviction, name)
    strong = durability.level is DurabilityLevel.DISK and roles.get("connected_slaves", "0") == "0"
    if settings.replicas:
        durability = Durability(DurabilityLevel.REPLICATED, settings.replicas + 1)
    seconds, micros = (int(part) for part in clock)
    return Facts(server["run_id"], numbers, durability, strong, seconds * 1000 + micros // 1000 - now_ms)


def _durability(config: object, name: str) -> Durability:
    """The level of the live append-only settings.

    ``everysec`` is `process` at best: while its fsync is slow, Redis holds writes back for up to two seconds.
    """
    if not isinstance(config, list):
        _logger.warning(
            "%s does not tell its configuration to this user (%s): durability is declared as 'memory'; allow "
            "+config|get to have it derived",
            name,
            config,
        )
        return Durability(DurabilityLevel.MEMORY)
    found = _pairs(config)
    if found.get("appendonly") != "yes":
        return Durability(DurabilityLevel.MEMORY)
    return Durability(DurabilityLevel.DISK if found.get("appendfsync") == "always" else DurabilityLevel.PROCESS)


def _check_eviction(config: object, name: str) -> None:
    if not isinstance(config, list):
        return
    found = _pairs(config)
    policy = found.get("maxmemory-policy", "noeviction")
    if not policy.startswith("allkeys"):
        return  # volatile-* evicts keys with an expiry only, and no key of a log has one
    if found.get("maxmemory", "0") != "0":
        raise ConfigurationError(
            f"{name} has maxmemory-policy {policy}: it would throw acknowledged records away; set it to noeviction"
        )
    _logger.warning("%s has maxmemory-policy %s: set a maxmemory and it throws records away", name, policy)


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {field: value for field, _, value in lines}


def _pairs(reply: list[bytes]) -> dict[str, str]:
    return {reply[i].decode(): reply[i + 1].decode() for i in range(0, len(reply) - 1, 2)}
