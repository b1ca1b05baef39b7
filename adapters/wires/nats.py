"""``nats://host:port/subject``: frames over core NATS; what NATS drops ends the channel instead of being missed.

A listener is a subject; a channel is a pair of inboxes that the two ends tell each other.  One connection per server
carries all channels of a wire.  When it breaks, its channels end (NATS forgets what it had for them) and its listeners
come back with it.  Options: ``creds`` (a file); user and password, or a token as the user, stand in the URL.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats.errors

from dynlog.adapters.wires.nats_connection import Connection, bare, inbox_of, open_connection, unsubscribed
from dynlog.adapters.wires.packets import HEAD, Kind, PacketChannel, read_packet
from dynlog.call_errors import ProtocolError, WireUnavailable
from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded
from dynlog.url import Url, parse_url, read_options
from dynlog.wire import Accept, Channel, Receiver

LISTEN_S = 10.0
_PROBE = b"dynlog?"
"""Whoever wants to listen asks with this whether somebody does already."""
_SUBJECT = re.compile(r"[^\x00-\x20\x7f.*>/]+(\.[^\x00-\x20\x7f.*>/]+)*")
_Login = tuple[str, str | None, str | None, str | None]


class NatsWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._servers: dict[_Login, Connection] = {}
        self._opening: dict[_Login, asyncio.Lock] = {}
        self._left: list[Connection] = []
        """Connections that did not answer; listeners stay at theirs, which comes back by itself."""
        self._closed = False

    async def listen(self, address: str, accept: Accept) -> NatsListener:
        url, subject = _parsed(address)
        try:
            async with asyncio.timeout(LISTEN_S):
                server = await self._server(url, LISTEN_S)
                listener = NatsListener(f"{bare(url)}/{subject}", subject, server, accept)
                await listener.start()
        except TimeoutError:
            raise DeadlineExceeded(f"{LISTEN_S:g} s were not enough to listen at {url}: is it a NATS server?") from None
        except (nats.errors.Error, OSError) as error:
            raise WireUnavailable(f"{url} cannot be listened at: {error or type(error).__name__}") from None
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> PacketChannel:
        url, subject = _parsed(address)
        try:
            async with asyncio.timeout(timeout):
                server = await self._server(url, timeout)
                return await server.dial(subject, f"{bare(url)}/{subject}", receiver)
        except TimeoutError:
            raise DeadlineExceeded(f"{timeout:g} s were not enough to reach {url}: does a dynlog listen?") from None
        except (nats.errors.Error, OSError) as error:
            raise WireUnavailable(f"{url} cannot be reached: {error or type(error).__name__}") from None

    async def _server(self, url: Url, timeout: float) -> Connection:
        """The connection to that server as that user, made if there is none."""
        login = _login(url)
        async with self._opening.setdefault(login, asyncio.Lock()):
            self._check()
            server = self._servers.get(login)
            if server is not None and not await server.answers():
                self._left = [left for left in self._left if left.listeners or not left.ended]
                self._left.append(self._servers.pop(login))
                if not server.listeners:
                    server.end()  # nobody waits for the end of what is dead already; `close` does
                server = None
            if server is None:
                server = await open_connection(url, timeout)
                if self._closed:
                    await server.close()
                self._check()
                self._servers[login] = server
            return server

    def _check(self) -> None:
        if self._closed:
            raise Closed("the wire nats:// was closed")

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(server.close() for server in [*self._servers.values(), *self._left]))


class NatsListener:
    """A subject at which peers say that they want a channel."""

    def __init__(self, address: str, subject: str, server: Connection, accept: Accept) -> None:
        self.address = address
        self._subject, self._server, self._accept = subject, server, accept
        self._subscription: Any = None

    async def start(self) -> None:
        """Subscribes, unless somebody answers there already."""
        try:
            await self._server.client.request(self._subject, _PROBE, timeout=2.0)
        except nats.errors.NoRespondersError:
            pass
        except nats.errors.TimeoutError:
            raise WireUnavailable(f"{self.address} cannot be listened at: somebody does already") from None
        else:
            raise WireUnavailable(f"{self.address} cannot be listened at: somebody does already")
        self._server.listeners.add(self)
        self._subscription = await self._server.client.subscribe(self._subject, cb=self._asked)
        if not await self._server.heard():
            raise WireUnavailable(f"{self.address} cannot be listened at: the server does not answer")

    async def _asked(self, message: Any) -> None:
        if not message.reply:
            return
        if message.data == _PROBE:
            await message.respond(_PROBE)
        with suppress(ProtocolError):  # a stranger, who is not answered
            if read_packet(message.data).kind == Kind.OPEN:
                await self._server.accept(message.reply, inbox_of(message.data[HEAD.size :]), self._accept)

    async def close(self) -> None:
        if self._subscription is not None and not self._server.client.is_closed:
            await unsubscribed(self._subscription)
        self._subscription = None
        self._server.listeners.discard(self)


def make_wire() -> NatsWire:
    """A wire over core NATS."""
    return NatsWire()


def _login(url: Url) -> _Login:
    return bare(url), url.user, url.password, url.options.get("creds")


def _parsed(address: str) -> tuple[Url, str]:
    url = parse_url(address)
    subject = url.path.strip("/")
    read_options(url, {"creds": str})
    if url.scheme != "nats" or not url.host or not _SUBJECT.fullmatch(subject):
        raise ConfigurationError(f"{url} is no address of this wire: nats://host:port/subject is, without wildcards")
    return url, subject
