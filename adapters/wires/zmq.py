"""``zmq://host:port``: frames over ZMQ, a ROUTER that listens and a DEALER for each channel that is dialled.

ZMQ reconnects and drops behind one's back; here a DEALER never reconnects, a ROUTER says when nobody is there, and
packets are numbered: what is lost ends the channel.  No call blocks the loop: a socket is used until it says no.

Whoever was told goodbye says so too, and whoever said it first reads until then: a socket that is closed over bytes
that nobody read resets the connection, and what was on its way to the peer would be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from dynlog.adapters.wires.packets import Kind, PacketChannel, read_packet, write_packet
from dynlog.adapters.wires.zmq_pump import Parts, Pump
from dynlog.adapters.zmq_wait import harden
from dynlog.call_errors import ProtocolError, WireBroken, WireUnavailable
from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded
from dynlog.url import Url, parse_url, read_options
from dynlog.wire import Accept, Channel, Receiver

MAX_PACKET_BYTES = 1 << 20
HWM = 1024
"""Over twice the window of a channel: a queue of ZMQ's is full only if the peer reads nothing."""
HEARTBEAT_S = 5.0
LINGER_MS = 1000
GOODBYE_S = 1.0
"""How long the peer of a closed channel may take to say goodbye."""
_GOODBYE = write_packet(Kind.BYE, 0, 0)
_LOST = (
    zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)  # fmt: skip


class ZmqWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._listeners: list[ZmqListener] = []
        self._dialled: dict[_Dialled, None] = {}
        self._closed = False
        self._terminated: asyncio.Future[None] | None = None

    async def listen(self, address: str, accept: Accept) -> ZmqListener:
        self._check()
        url = _parsed(address)
        socket = _socket(self._context, zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(f"tcp://{_host(url)}:{url.port or '*'}")
        except zmq.ZMQError as error:
            socket.close()
            raise WireUnavailable(f"{url} cannot be listened at: {error}") from None
        port = bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode().rpartition(":")[2]
        listener = ZmqListener(f"zmq://{_host(url)}:{port}", socket, accept)
        self._listeners.append(listener)
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> PacketChannel:
        self._check()
        url = _parsed(address)
        if not url.port:
            raise ConfigurationError(f"{url}: a port from 1 to 65535 is needed to dial")
        dialled = _Dialled(self._context, str(url), receiver, self._dialled)
        try:
            async with asyncio.timeout(timeout):
                dialled.start(f"tcp://{_host(url)}:{url.port}")
                await dialled.accepted
        except TimeoutError:
            dialled.channel.abort()
            raise DeadlineExceeded(f"{timeout:g} s were not enough to reach {url}: does a dynlog listen?") from None
        except zmq.ZMQError as error:
            dialled.channel.abort()
            raise ConfigurationError(f"{url} is no place that ZMQ can dial: {error}") from None
        except WireBroken as error:
            raise WireUnavailable(f"{url} cannot be reached: {error}") from None
        except BaseException:
            dialled.channel.abort()
            raise
        return dialled.channel

    def _check(self) -> None:
        if self._closed:
            raise Closed("the wire zmq:// was closed")

    async def close(self) -> None:
        self._closed = True
        ends = []
        for listener in self._listeners:
            await listener.close()
            ends.append(listener.end())
        for dialled in list(self._dialled):
            dialled.channel.close()
            ends.append(dialled.freed)
        if ends:
            await asyncio.wait(ends)
        # Goodbyes may still be leaving: the context waits for them, at most the linger, and not in this thread.
        if self._terminated is None:
            self._terminated = asyncio.get_running_loop().run_in_executor(None, self._context.term)
        await asyncio.shield(self._terminated)


class ZmqListener:
    """A ROUTER and the channels over it."""

    def __init__(self, address: str, socket: zmq.Socket[bytes], accept: Accept) -> None:
        self.address = address
        self._socket, self._accept = socket, accept
        self._open = True
        self._channels: dict[bytes, PacketChannel] = {}
        self._unanswered: dict[bytes, asyncio.TimerHandle] = {}
        """Who was told goodbye and has not said so too."""
        self._freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pump = Pump(socket, self._came)

    def _came(self, parts: Parts) -> None:
        if len(parts) != 2:
            return  # no dynlog says that
        name, data = parts
        channel = self._channels.get(name)
        try:
            packet = read_packet(data)
        except ProtocolError as error:
            if channel is not None:
                channel.broke(str(error))
            return
        if channel is not None:
            channel.received(packet)
            if packet.kind == Kind.BYE:
                self._send(name, _GOODBYE)
        elif packet.kind == Kind.BYE:
            self._answered(name)
        elif packet.kind == Kind.OPEN and self._open:
            self._begin(name)

    def _begin(self, name: bytes) -> None:
        channel = PacketChannel(
            "zmq", f"{self.address} {name.hex()[-8:]}", MAX_PACKET_BYTES,
            lambda packet: self._send(name, packet), lambda _: self._forget(name),
        )  # fmt: skip
        self._channels[name] = channel
        self._send(name, write_packet(Kind.ACCEPT, 0, 0))
        channel.begin(self._accept)

    def _forget(self, name: bytes) -> None:
        channel = self._channels.pop(name, None)
        loop = asyncio.get_running_loop()
        if channel is not None and channel.parted:
            self._unanswered[name] = loop.call_later(GOODBYE_S, self._answered, name)
        elif not self._open:
            loop.call_soon(self._free_if_idle)

    def _answered(self, name: bytes) -> None:
        if (timer := self._unanswered.pop(name, None)) is not None:
            timer.cancel()
            if not self._open:
                asyncio.get_running_loop().call_soon(self._free_if_idle)

    def _free_if_idle(self) -> None:
        if not self._channels and not self._unanswered:
            self.free()

    def _send(self, name: bytes, packet: bytes) -> None:
        try:
            self._pump.send([name, packet])
        except zmq.ZMQError as error:
            if (channel := self._channels.pop(name, None)) is not None:
                asyncio.get_running_loop().call_soon(channel.broke, _why(error))

    async def close(self) -> None:
        # The port stays taken until the last of its channels is over: ZMQ has one socket for both.
        self._open = False
        self._free_if_idle()

    def end(self) -> asyncio.Future[None]:
        """Closes every channel; the future is done when they are over and the port is free."""
        for channel in list(self._channels.values()):
            channel.close()
        return self._freed

    def free(self) -> None:
        """Gives the port back."""
        self._pump.close()
        if not self._freed.done():
            self._freed.set_result(None)


class _Dialled:
    """A DEALER and its channel."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        peer: str,
        receiver: Callable[[Channel], Receiver],
        everybody: dict[_Dialled, None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.freed: asyncio.Future[None] = loop.create_future()
        """Done once its socket is closed, which may be a while after its channel is over."""
        self._socket = _socket(context, zmq.DEALER)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._receiver, self._everybody = receiver, everybody
        self._pump: Pump | None = None
        self._monitor: Pump | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.channel = PacketChannel("zmq", peer, MAX_PACKET_BYTES, self._send, self._ended)
        everybody[self] = None

    def start(self, endpoint: str) -> None:
        """Connects and asks for a channel."""
        watched = self._socket.get_monitor_socket(_LOST)
        self._monitor = Pump(watched, self._happened)
        self._pump = Pump(self._socket, self._came)
        self._socket.connect(endpoint)
        self._send(write_packet(Kind.OPEN, 0, 0))

    def _send(self, packet: bytes) -> None:
        try:
            if self._pump is not None:
                self._pump.send([packet])
        except zmq.ZMQError as error:
            asyncio.get_running_loop().call_soon(self.channel.broke, _why(error))

    def _came(self, parts: Parts) -> None:
        try:
            packet = read_packet(parts[0])
        except ProtocolError as error:
            self.channel.broke(str(error))
            return
        if self.channel.over.done():
            if packet.kind == Kind.BYE:
                asyncio.get_running_loop().call_soon(self._free)
        elif self.accepted.done():
            self.channel.received(packet)
            if packet.kind == Kind.BYE:
                self._send(_GOODBYE)
        elif packet.kind == Kind.ACCEPT:
            self.channel.begin(self._receiver)
            self.accepted.set_result(None)

    def _happened(self, parts: Parts) -> None:
        # What came before the connection was lost is read first.
        assert self._pump is not None
        self._pump.read(2 * HWM)
        if not self.accepted.done():
            self._socket.setsockopt(zmq.LINGER, 0)  # there is nobody whom a goodbye would reach
        self.channel.broke("the connection was lost" if self.accepted.done() else "nobody answers there")
        if self.channel.over.done():
            asyncio.get_running_loop().call_soon(self._free)  # no goodbye will come

    def _ended(self, channel: PacketChannel) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(WireBroken("nobody answers there"))
            self.accepted.exception()
        loop = asyncio.get_running_loop()
        if channel.parted:
            self._timer = loop.call_later(GOODBYE_S, self._free)
        else:
            loop.call_soon(self._free)  # not within a callback of the very socket

    def _free(self) -> None:
        if self.freed.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        self._everybody.pop(self, None)
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
            self._monitor = None
        if self._pump is not None:
            self._pump.close()
        else:
            self._socket.close()
        self.freed.set_result(None)


def make_wire() -> ZmqWire:
    """A wire over ZMQ."""
    return ZmqWire()


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    harden(socket, heartbeat_s=HEARTBEAT_S, receive_hwm=HWM)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.SNDHWM, HWM)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_PACKET_BYTES + 4096)
    return socket


def _why(error: zmq.ZMQError) -> str:
    if error.errno == zmq.EHOSTUNREACH:
        return "nobody is there any more"
    return "it reads nothing of what it is sent" if error.errno == zmq.EAGAIN else str(error)


def _host(url: Url) -> str:
    return f"[{url.host}]" if ":" in url.host else url.host


def _parsed(address: str) -> Url:
    url = parse_url(address)
    read_options(url, {})
    if url.scheme != "zmq" or not url.host or url.port is None or url.path.strip("/") or url.user:
        raise ConfigurationError(f"{url} is no address of this wire: zmq://host:port is")
    return url
