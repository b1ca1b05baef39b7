"""``nats://host:port/subject``: frames over core NATS; what NATS drops ends the channel instead of being missed.

A listener is a subject; a channel is a pair of inboxes that the two ends tell each other.  One connection per server
carries all channels of a wire.  When it breaks, its channels end (NATS forgets what it had for them) and its listeners
come back with it.  Options: ``creds`` (a file); user and password, or a token as the user, stand in the URL.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats
import nats.errors

from dynlog.adapters.wires.packets import HEAD, Kind, Packet, PacketChannel, read_packet, write_packet
from dynlog.call_errors import ProtocolError, WireUnavailable
from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded
from dynlog.url import Url, parse_url, read_options
from dynlog.wire import Accept, Channel, Receiver

MAX_PACKET_BYTES = 1 << 20
MIN_PAYLOAD_BYTES = 160 << 10
"""A server that takes less in one message cannot carry sessions, whose frames have up to 128 KiB."""
LISTEN_S = 10.0
ALIVE_S = 1


class NatsWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._opening = asyncio.Lock()
        self._closing: list[asyncio.Task[None]] = []
        self._closed = False

    async def listen(self, address: str, accept: Accept) -> NatsListener:
        url, subject = _parsed(address)
        server = await self._server(url, LISTEN_S)
        listener = NatsListener(f"{_bare(url)}/{subject}", subject, server, accept)
        await listener.start()
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> PacketChannel:
        url, subject = _parsed(address)
        inbox = f"_INBOX.dynlog.{secrets.token_hex(16)}"
        try:
            async with asyncio.timeout(timeout):
                server = await self._server(url, timeout)
                return await server.dial(subject, inbox, f"{_bare(url)}/{subject}", receiver)
        except TimeoutError:
            raise DeadlineExceeded(f"{timeout:g} s were not enough to reach {url}: does a dynlog listen?") from None

    async def _server(self, url: Url, timeout: float) -> _Server:
        """The connection to that server, made if there is none."""
        key = _bare(url)
        async with self._opening:
            if self._closed:
                raise Closed("the wire nats:// was closed")
            server = self._servers.get(key)
            if server is not None and not await server.answers():
                # Nobody waits for the end of what is dead already; `close` does.
                self._closing.append(
                    asyncio.create_task(self._servers.pop(key).close(), name=f"dynlog-nats-close {key}")
                )
                self._closing = [task for task in self._closing if not task.done()]
                server = None
            if server is None:
                server = self._servers[key] = await _open(url, timeout)
            return server

    async def close(self) -> None:
        self._closed = True
        async with self._opening:
            for server in self._servers.values():
                await server.close()
            await asyncio.gather(*self._closing)


class NatsListener:
    """A subject at which peers say that they want a channel."""

    def __init__(self, address: str, subject: str, server: _Server, accept: Accept) -> None:
        self.address = address
        self._subject, self._server, self._accept = subject, server, accept
        self._subscription: Any = None

    async def start(self) -> None:
        """Subscribes, unless somebody answers there already."""
        try:
            await self._server.client.request(self._subject, b"", timeout=2.0)
        except nats.errors.NoRespondersError:
            pass
        except nats.errors.TimeoutError:
            raise WireUnavailable(f"{self.address} cannot be listened at: somebody does already") from None
        else:
            raise WireUnavailable(f"{self.address} cannot be listened at: somebody does already")
        self._subscription = await self._server.client.subscribe(self._subject, cb=self._asked)
        await self._server.client.flush()

    async def _asked(self, message: Any) -> None:
        if not message.reply:
            return
        with suppress(ProtocolError):  # a stranger, who is not answered
            if read_packet(message.data).kind == Kind.OPEN:
                there = message.data[HEAD.size :].decode("ascii", "replace")
                await self._server.accept(message.reply, there, self._accept)

    async def close(self) -> None:
        if self._subscription is not None and not self._server.client.is_closed:
            await self._subscription.unsubscribe()
        self._subscription = None


class _Server:
    """One connection to a NATS server, and the channels over it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name
        self.channels: dict[PacketChannel, Any] = {}
        """With the subscription of each."""
        self._out: deque[tuple[str, bytes]] = deque()
        self._more = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()
        self._pump = asyncio.create_task(self._publish(), name=f"dynlog-nats {name}")

    async def dial(self, subject: str, inbox: str, peer: str, receiver: Callable[[Channel], Receiver]) -> PacketChannel:
        """Asks at the subject for a channel."""
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        channel: PacketChannel | None = None

        async def came(message: Any) -> None:
            nonlocal channel
            if channel is not None:
                _feed(channel, message.data)
            elif not answered.done():
                if message.headers and message.headers.get("Status") == "503":
                    answered.set_exception(WireUnavailable(f"{peer} cannot be reached: nobody listens at {subject!r}"))
                    return
                with suppress(ProtocolError):
                    packet = read_packet(message.data)
                    if packet.kind == Kind.ACCEPT:
                        there = bytes(packet.body).decode("ascii", "replace")
                        channel = self._channel(peer, there)
                        # What comes next is for the receiver: it has to be there before this returns.
                        channel.begin(receiver)
                        answered.set_result(there)

        subscription = await self.client.subscribe(inbox, cb=came)
        try:
            await self.client.publish(subject, _said(Kind.OPEN, inbox), reply=inbox)
            await answered
        except BaseException:
            if channel is not None:
                channel.abort()
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
            raise
        assert channel is not None
        self.channels[channel] = subscription
        if channel.over.done():
            self._ended(channel)
        return channel

    async def accept(self, reply: str, there: str, accept: Accept) -> None:
        """Makes the other end of a channel."""
        inbox = f"_INBOX.dynlog.{secrets.token_hex(16)}"
        channel = self._channel(f"{self.name} {there[-8:]}", there)

        async def came(message: Any) -> None:
            _feed(channel, message.data)

        self.channels[channel] = await self.client.subscribe(inbox, cb=came)
        # The answer goes first: what the receiver sends at once must find the other end ready.
        self._transmit(reply, _said(Kind.ACCEPT, inbox))
        channel.begin(accept)

    def _channel(self, peer: str, there: str) -> PacketChannel:
        most = min(self.client.max_payload, MAX_PACKET_BYTES)
        return PacketChannel("nats", peer, most, lambda packet: self._transmit(there, packet), self._ended)

    def _transmit(self, subject: str, packet: bytes) -> None:
        # Bounded: every channel has at most a window of packets on its way.
        self._out.append((subject, packet))
        self._more.set()

    async def _publish(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            try:
                while self._out:
                    await self.client.publish(*self._out.popleft())
            except nats.errors.Error as error:
                self.broke(str(error) or type(error).__name__)

    async def answers(self) -> bool:
        """Whether the server still answers: a connection that is half open looks like a good one for long."""
        if self.client.is_connected:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await self.client.flush(ALIVE_S)
                return True
        self.broke("the server does not answer")
        return False

    def _ended(self, channel: PacketChannel) -> None:
        subscription = self.channels.pop(channel, None)
        if subscription is not None and not self.client.is_closed:
            task = asyncio.ensure_future(_unsubscribed(subscription))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def broke(self, why: str) -> None:
        """The connection broke: what was on its way is lost."""
        self._out.clear()
        for channel in list(self.channels):
            channel.broke(f"the connection to the NATS server broke: {why}")

    async def close(self) -> None:
        """Ends channels and connection."""
        for channel in list(self.channels):
            channel.close()
        overs = [channel.over for channel in self.channels]
        if overs:
            await asyncio.wait(overs, timeout=5.0)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5.0)
        # The goodbyes leave before the connection does.
        with suppress(nats.errors.Error, TimeoutError, OSError):
            while self._out:
                await self.client.publish(*self._out.popleft())
            if self.client.is_connected:
                await self.client.flush(2)
        self._pump.cancel()
        with suppress(asyncio.CancelledError):
            await self._pump
        with suppress(nats.errors.Error, OSError, TimeoutError):
            await asyncio.wait_for(self.client.close(), 5)
        for channel in list(self.channels):
            channel.abort()


async def _open(url: Url, timeout: float) -> _Server:
    options = read_options(url, {"creds": str})
    server: _Server | None = None

    async def disconnected() -> None:
        if server is not None:
            server.broke("it was cut")

    async def failed(error: Exception) -> None:
        """nats-py logs what it is not told where to put; slow consumers show as a gap in a channel's numbers."""

    extra = {"user_credentials": options["creds"]} if "creds" in options else {}
    if url.password is not None:
        extra |= {"user": url.user or "", "password": url.password}
    elif url.user:
        extra |= {"token": url.user}
    try:
        async with asyncio.timeout(timeout):
            client = await nats.connect(
                _bare(url), disconnected_cb=disconnected, error_cb=failed, max_reconnect_attempts=-1,
                allow_reconnect=True, connect_timeout=max(1, round(timeout)), reconnect_time_wait=0.2,
                ping_interval=5, max_outstanding_pings=2, **extra,
            )  # fmt: skip
    except TimeoutError:
        raise DeadlineExceeded(f"{timeout:g} s were not enough to connect to {url}") from None
    except (nats.errors.Error, OSError) as error:
        raise WireUnavailable(f"{url} cannot be reached: {error or type(error).__name__}") from None
    if client.max_payload < MIN_PAYLOAD_BYTES:
        await client.close()
        raise ConfigurationError(
            f"{url} takes {client.max_payload} bytes in a message: raise max_payload of that server to at least "
            f"{MIN_PAYLOAD_BYTES}"
        )
    server = _Server(client, str(url).partition("?")[0])
    return server


def make_wire() -> NatsWire:
    """A wire over core NATS."""
    return NatsWire()


async def _unsubscribed(subscription: Any) -> None:
    with suppress(nats.errors.Error):
        await subscription.unsubscribe()


def _feed(channel: PacketChannel, data: bytes) -> None:
    try:
        packet: Packet = read_packet(data)
    except ProtocolError as error:
        channel.broke(str(error))
        return
    channel.received(packet)


def _said(kind: Kind, inbox: str) -> bytes:
    """A packet that tells an inbox: its body is that, without a length."""
    return write_packet(kind, 0, 0, raw=inbox.encode())


def _bare(url: Url) -> str:
    """The server alone."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"nats://{host}:{url.port or 4222}"


def _parsed(address: str) -> tuple[Url, str]:
    url = parse_url(address)
    subject = url.path.strip("/")
    read_options(url, {"creds": str})
    if url.scheme != "nats" or not url.host or not subject or any(c in subject for c in " *>/") or ".." in subject:
        raise ConfigurationError(f"{url} is no address of this wire: nats://host:port/subject is, without wildcards")
    return url, subject
