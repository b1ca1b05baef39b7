"""One connection to a NATS server: the channels over it, and what becomes of them when it breaks."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import nats.errors

from dynlog.adapters.nats.client import NatsClient
from dynlog.adapters.nats.hanging_up import hung_up
from dynlog.adapters.nats.hearing import server_answers, server_has_heard
from dynlog.adapters.wires.packets import Kind, Packet, PacketChannel, read_packet, write_packet
from dynlog.call_errors import ProtocolError, WireUnavailable
from dynlog.errors import ConfigurationError
from dynlog.url import Url, read_options
from dynlog.wire import Accept, Channel, Receiver

MAX_PACKET_BYTES = 1 << 20
MIN_PAYLOAD_BYTES = 160 << 10
"""A server that takes less in one message cannot carry sessions, whose frames have up to 128 KiB."""
ALIVE_S = 1.0
"""Within this a server that is alive answers."""
_INBOX = re.compile(r"_INBOX\.dynlog\.[0-9a-f]{32}")
"""What a peer may say of where it is: a subject is put into NATS's protocol as it is."""


class Connection:
    """One connection to a NATS server, and the channels over it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name
        self.channels: dict[PacketChannel, Any] = {}
        """With the subscription of each."""
        self.listeners: set[object] = set()
        self._dialling: set[asyncio.Future[None]] = set()
        self._out: deque[tuple[str, bytes]] = deque()
        self._more = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()
        self._pump = asyncio.create_task(self._publish(), name=f"dynlog-nats {name}")
        self._asking: set[asyncio.Timeout] = set()
        """Of those who wait for an answer now."""
        self._end: asyncio.Task[None] | None = None

    async def dial(self, subject: str, peer: str, receiver: Callable[[Channel], Receiver]) -> PacketChannel:
        """Asks at the subject for a channel."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel: PacketChannel | None = None
        inbox = _new_inbox()

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
                        channel = self._channel(peer, inbox_of(bytes(packet.body)))
                        self.channels[channel] = subscription
                        # What comes next is for the receiver: it has to be there before this returns.
                        channel.begin(receiver)
                        answered.set_result(None)

        self._dialling.add(answered)
        subscription = None
        try:
            subscription = await self.client.subscribe(inbox, cb=came)
            await self.client.publish(subject, _said(Kind.OPEN, inbox), reply=inbox)
            await answered
        except BaseException:
            if channel is not None:
                channel.abort()
            elif subscription is not None and not self.client.is_closed:
                await unsubscribed(subscription)
            raise
        finally:
            self._dialling.discard(answered)
        assert channel is not None
        return channel

    async def accept(self, reply: str, there: str, accept: Accept) -> None:
        """Makes the other end of a channel."""
        inbox = _new_inbox()
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
            except (nats.errors.Error, OSError) as error:
                self.broke(str(error) or type(error).__name__)

    async def answers(self) -> bool:
        """Whether the server still answers: a connection that is half open looks like a good one for long."""
        return await self._answered(server_answers(self.client, ALIVE_S))

    async def heard(self) -> bool:
        """Whether the server has acted on all that was said to it before: a subscription listens now."""
        return await self._answered(server_has_heard(self.client, ALIVE_S))

    async def _answered(self, question: Coroutine[Any, Any, None]) -> bool:
        try:
            async with asyncio.timeout(None) as limit:
                self._asking.add(limit)
                await question
            return True
        except (nats.errors.Error, OSError):
            self.broke("the server does not answer")
            return False
        finally:
            self._asking.discard(limit)

    def cut(self) -> None:
        """The connection is gone, and with it every answer that was to come."""
        while self._asking:
            self._asking.pop().reschedule(0)
        self.broke("it was cut")

    def _ended(self, channel: PacketChannel) -> None:
        subscription = self.channels.pop(channel, None)
        if subscription is not None and not self.client.is_closed:
            task = asyncio.ensure_future(unsubscribed(subscription))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def broke(self, why: str) -> None:
        """The connection broke: what was on its way is lost."""
        self._out.clear()
        for channel in list(self.channels):
            channel.broke(f"the connection to the NATS server broke: {why}")
        for dialling in self._dialling:
            if not dialling.done():
                dialling.set_exception(WireUnavailable(f"the connection to the NATS server broke: {why}"))

    async def close(self) -> None:
        """Ends channels and connection, once however often it is called."""
        await asyncio.shield(self.end())

    def end(self) -> asyncio.Task[None]:
        """Begins with that."""
        if self._end is None:
            self._end = asyncio.create_task(self._close(), name=f"dynlog-nats-close {self.name}")
        return self._end

    @property
    def ended(self) -> bool:
        """Whether it is done."""
        return self._end is not None and self._end.done()

    async def _close(self) -> None:
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
        await self.answers()
        await hung_up(self.client)
        self._pump.cancel()
        await asyncio.wait({self._pump})
        for channel in list(self.channels):
            channel.abort()
        self.broke("it was closed")


async def open_connection(url: Url, timeout: float) -> Connection:
    options = read_options(url, {"creds": str})
    server: Connection | None = None

    async def disconnected() -> None:
        if server is not None:
            server.cut()

    async def failed(error: Exception) -> None:
        """nats-py logs what it is not told where to put; slow consumers show as a gap in a channel's numbers."""
        if server is None:
            raise error  # else it would try for ever

    settings: dict[str, Any] = {"reconnect_time_wait": 0.2, "ping_interval": 5, "max_outstanding_pings": 2}
    if "creds" in options:
        settings["user_credentials"] = options["creds"]
    if url.password is not None:
        settings |= {"user": url.user or "", "password": url.password}
    elif url.user:
        settings["token"] = url.user
    client = NatsClient()
    try:
        async with asyncio.timeout(timeout):
            await client.connect(
                bare(url), disconnected_cb=disconnected, error_cb=failed, max_reconnect_attempts=-1,
                allow_reconnect=True, connect_timeout=max(1, round(timeout)), **settings,
            )  # fmt: skip
    except BaseException:
        await hung_up(client)
        raise
    if client.max_payload < MIN_PAYLOAD_BYTES:
        await hung_up(client)
        raise ConfigurationError(
            f"{url} takes {client.max_payload} bytes in a message: raise max_payload of that server to at least "
            f"{MIN_PAYLOAD_BYTES}"
        )
    server = Connection(client, str(url).partition("?")[0])
    return server


async def unsubscribed(subscription: Any) -> None:
    with suppress(nats.errors.Error):
        await subscription.unsubscribe()


def _feed(channel: PacketChannel, data: bytes) -> None:
    try:
        packet: Packet = read_packet(data)
    except ProtocolError as error:
        channel.broke(str(error))
        return
    channel.received(packet)


def _new_inbox() -> str:
    return f"_INBOX.dynlog.{secrets.token_hex(16)}"


def inbox_of(said: bytes) -> str:
    """The inbox that a peer told; raises ProtocolError."""
    inbox = said.decode("ascii", "replace")
    if not _INBOX.fullmatch(inbox):
        raise ProtocolError(f"it is at {inbox[:80]!r}, which is no inbox")
    return inbox


def _said(kind: Kind, inbox: str) -> bytes:
    """A packet that tells an inbox: its body is that, without a length."""
    return write_packet(kind, 0, 0, raw=inbox.encode())


def bare(url: Url) -> str:
    """The server alone."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"nats://{host}:{url.port or 4222}"
