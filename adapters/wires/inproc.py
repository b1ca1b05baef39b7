"""``inproc://name``: frames between two peers in one event loop, handed over by the loop itself without a socket."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence

from dynlog.call_errors import WireUnavailable
from dynlog.errors import Closed, ConfigurationError
from dynlog.record import Buffer
from dynlog.wire import HIGH_WATER_BYTES, Accept, Channel, Frame, Receiver

MAX_FRAME_BYTES = 1 << 20
_HEAD_BYTES = 8
"""What a frame counts beside its bytes, so that frames of no size do not pile up without end."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_PLACES: dict[str, InprocListener] = {}


class InprocChannel:
    """One end; what is sent lies in the other end's inbox until the loop comes by."""

    scheme = "inproc"
    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, peer: str, loop: asyncio.AbstractEventLoop) -> None:
        self.peer = peer
        self.over: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._other: InprocChannel | None = None
        self._receiver: Receiver | None = None
        self._inbox: deque[Buffer] = deque()
        self._bytes = 0
        self._paused = self._scheduled = self._sender_waits = False
        self._ending = self._bidden = False

    def send(self, frames: Sequence[Frame]) -> bool:
        other = self._other
        if self._ending or other is None or other._ending:
            return True
        inbox, total = other._inbox, 0
        joined = [frame[0] if len(frame) == 1 else b"".join(frame) for frame in frames]
        for body in joined:
            if len(body) > MAX_FRAME_BYTES:
                raise ConfigurationError(f"a frame of {len(body)} bytes is over the {MAX_FRAME_BYTES} of inproc://")
            total += len(body) + _HEAD_BYTES
        # A view would show what its owner writes into it later.
        inbox.extend(body if type(body) is bytes else bytes(body) for body in joined)
        other._bytes += total
        other._wake()
        other._sender_waits = other._bytes > HIGH_WATER_BYTES
        return not other._sender_waits

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def close(self) -> None:
        if self._ending:
            return
        self._ending = True
        if self._other is not None:
            self._other._bidden = True
            self._other._wake()
        self._loop.call_soon(self._lost)

    def abort(self) -> None:
        if not self._ending and self._other is not None:
            self._other._inbox.clear()
        self.close()

    def join(self, other: InprocChannel, receiver: Receiver) -> None:
        """Makes the two ends one channel, with ``receiver`` behind this one."""
        self._other, self._receiver = other, receiver
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled and not self._ending and (self._inbox or self._bidden):
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._ending or self._receiver is None or (self._paused and self._inbox):
            return
        if self._inbox:
            frames = list(self._inbox)
            self._inbox.clear()
            self._bytes = 0
            self._receiver.frames_received(frames)
            if self._sender_waits and self._other is not None and not self._other._ending:
                self._sender_waits = False
                assert self._other._receiver is not None
                self._other._receiver.writable()
        if self._bidden and not self._inbox and not self._ending:
            self._ending = True
            self._lost()

    def _lost(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
            self._inbox.clear()
            if self._receiver is not None:
                self._receiver.channel_lost(None)


class InprocListener:
    """A name that is taken within the process."""

    def __init__(self, name: str, wire: InprocWire, accept: Accept) -> None:
        self.address = f"inproc://{name}"
        self.loop = asyncio.get_running_loop()
        self._name, self.wire, self.accept = name, wire, accept

    async def close(self) -> None:
        if _PLACES.get(self._name) is self:
            del _PLACES[self._name]


class InprocWire:
    """See `dynlog.wire.Wire`."""

    def __init__(self) -> None:
        self._listeners: list[InprocListener] = []
        self._channels: set[InprocChannel] = set()
        self._closed = False

    async def listen(self, address: str, accept: Accept) -> InprocListener:
        self._check()
        name = _name(address)
        if name in _PLACES:
            raise WireUnavailable(f"{address} cannot be listened at: somebody in this process does already")
        listener = _PLACES[name] = InprocListener(name, self, accept)
        self._listeners.append(listener)
        return listener

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> InprocChannel:
        self._check()
        listener = _PLACES.get(_name(address))
        loop = asyncio.get_running_loop()
        if listener is None or listener.loop is not loop:
            raise WireUnavailable(f"{address} cannot be reached: nobody in this event loop listens there")
        ours = self._add(InprocChannel(address, loop))
        theirs = listener.wire._add(InprocChannel(address, loop))
        # Both are joined before either is heard: what a receiver sends at once goes nowhere else.
        ours._other, theirs._other = theirs, ours
        theirs.join(ours, listener.accept(theirs))
        ours.join(theirs, receiver(ours))
        return ours

    async def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        overs = [channel.over for channel in self._channels]
        for channel in list(self._channels):
            channel.close()
        if overs:
            await asyncio.wait(overs)

    def _add(self, channel: InprocChannel) -> InprocChannel:
        self._channels.add(channel)
        channel.over.add_done_callback(lambda _: self._channels.discard(channel))
        return channel

    def _check(self) -> None:
        if self._closed:
            raise Closed("the wire inproc:// was closed")


def make_wire() -> InprocWire:
    """A wire within this event loop."""
    return InprocWire()


def _name(address: str) -> str:
    scheme, _, name = address.partition("://")
    if scheme != "inproc" or not _NAME.fullmatch(name):
        raise ConfigurationError(f"{address!r} is no address of this wire: inproc://name is")
    return name
