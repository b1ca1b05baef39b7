"""Frames in packets: what wires share that carry messages of somebody else's (NATS, ZMQ, HTTP).

    packet    kind u8 | number u64 | taken u64 | crc32c u32 | (length u32 | bytes) per frame          (little-endian)

Those carriers drop in silence: slow consumers, full queues, reconnects.  So packets are numbered, and a gap ends the
channel, named; at most a window of packets is on its way that the other end has not taken, so that no queue of theirs
fills; each has a CRC-32C.  Damage, a cut or a stranger ends the channel.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum

from google_crc32c import value as crc32c

from dynlog.call_errors import ProtocolError, WireBroken
from dynlog.errors import ConfigurationError
from dynlog.record import Buffer
from dynlog.wire import HIGH_WATER_BYTES, Channel, Frame, Receiver

HEAD = struct.Struct("<BQQI")
_CRC_AT = 17
_LENGTH = struct.Struct("<I")
WINDOW_PACKETS = 256
WINDOW_BYTES = 4 << 20
LINGER_S = 5.0
"""How long a closed channel may take to get rid of what was handed over."""


class Kind(IntEnum):
    """What a packet is."""

    OPEN = 1
    ACCEPT = 2
    FRAMES = 3
    TAKEN = 4
    BYE = 5


class Packet:
    """A packet that was read."""

    __slots__ = ("body", "kind", "number", "taken")

    def __init__(self, kind: int, number: int, taken: int, body: memoryview) -> None:
        self.kind, self.number, self.taken, self.body = kind, number, taken, body


def write_packet(kind: Kind, number: int, taken: int, frames: Sequence[Buffer] = (), raw: bytes = b"") -> bytes:
    """A packet of these frames, or of a body that is none (of OPEN and ACCEPT)."""
    pieces: list[Buffer] = []
    for frame in frames:
        pieces.append(_LENGTH.pack(len(frame)))
        pieces.append(frame)
    body = b"".join(pieces) if pieces else raw
    return HEAD.pack(kind, number, taken, crc32c(HEAD.pack(kind, number, taken, 0) + body)) + body


def read_packet(packet: Buffer) -> Packet:
    """What `write_packet` made; raises ProtocolError for anything else."""
    if len(packet) < HEAD.size:
        raise ProtocolError(f"a packet of {len(packet)} bytes: at least {HEAD.size} were expected")
    kind, number, taken, crc = HEAD.unpack_from(packet)
    view = memoryview(packet)
    if crc32c(HEAD.pack(kind, number, taken, 0) + bytes(view[HEAD.size :])) != crc:
        raise ProtocolError(f"a packet of {len(packet)} bytes does not have its CRC: the bytes were changed on the way")
    return Packet(kind, number, taken, view[HEAD.size :])


def frames_of(body: memoryview) -> list[Buffer]:
    """The frames of a packet; raises ProtocolError."""
    frames: list[Buffer] = []
    at, end = 0, len(body)
    while at < end:
        if end - at < 4:
            raise ProtocolError(f"a frame's length of {end - at} bytes: 4 were expected")
        (size,) = _LENGTH.unpack_from(body, at)
        at += 4
        if size > end - at:
            raise ProtocolError(f"a frame of {size} bytes is announced and {end - at} are there")
        frames.append(bytes(body[at : at + size]))
        at += size
    return frames


class PacketChannel:
    """One end of a channel over packets; the carrier is told to ``transmit`` and tells what it `received`."""

    def __init__(
        self,
        scheme: str,
        peer: str,
        max_packet_bytes: int,
        transmit: Callable[[bytes], None],
        ended: Callable[[PacketChannel], None],
    ) -> None:
        self.scheme, self.peer = scheme, peer
        self.max_frame_bytes = max_packet_bytes - HEAD.size - 4
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._max_packet, self._transmit, self._ended = max_packet_bytes, transmit, ended
        self._receiver: Receiver | None = None
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._sent = 0
        self._in_flight: deque[int] = deque()
        self._in_flight_bytes = 0
        self._came = 0
        """Packets that came."""
        self._taken = self._told = 0
        """Packets that the receiver took, and of how many the other end knows."""
        self._untold_bytes = 0
        self._held: deque[list[Buffer]] = deque()
        self._paused = self._scheduled = self._full = False
        self._closing = self._bidden = False
        """Whether this end, and the other one, want no more."""
        self.parted = False
        """Whether it ended by its own `close`: what it said last may be on its way yet."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, receiver: Callable[[Channel], Receiver]) -> None:
        """Both ends know of each other: frames may come."""
        self._receiver = made = receiver(self)
        if self.over.done():
            made.channel_lost(None)  # it was ended as it was made

    # What the owner calls.

    def send(self, frames: Sequence[Frame]) -> bool:
        if self._closing or self._bidden or self.over.done():
            return True
        bodies, total = [], 0
        for frame in frames:
            body = frame[0] if len(frame) == 1 else b"".join(frame)
            if type(body) is not bytes:
                body = bytes(body)  # its owner may write into it as soon as this returns
            if len(body) > self.max_frame_bytes:
                raise ConfigurationError(
                    f"a frame of {len(body)} bytes is over the {self.max_frame_bytes} of {self.scheme}://"
                )
            bodies.append(body)
            total += 4 + len(body)
        self._out.extend(bodies)
        self._out_bytes += total
        self._schedule()
        self._full = self._out_bytes > HIGH_WATER_BYTES
        return not self._full

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        while self._held and not self._paused and not self.over.done():
            self._give(self._held.popleft())
        if self._bidden and not self._held:
            self._finish(None)
        self._tell()

    def close(self) -> None:
        if self._closing or self.over.done():
            return
        if self._bidden:
            self._finish(None)
            return
        self._closing = True
        self._schedule()
        self._timer = self._loop.call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        if not self.over.done():
            self._out.clear()
            self._bye()
            self._finish(None)

    # What the carrier calls.

    def received(self, packet: Packet) -> None:
        """A packet of the other end, already known to be whole."""
        if self._bidden or self.over.done():
            return
        if packet.number != self._came + (packet.kind == Kind.FRAMES):
            self.broke(f"packet {self._came + 1} was lost on the way: {packet.number} came")
            return
        self._acknowledged(packet.taken)
        if packet.kind == Kind.BYE:
            self._bidden = True
            if not self._held:
                self._finish(None)
        elif packet.kind == Kind.FRAMES:
            self._came += 1
            try:
                frames = frames_of(packet.body)
            except ProtocolError as error:
                self.broke(str(error))
                return
            if self._closing:
                self._taken += 1  # nobody wants it
            elif self._paused or self._held:
                self._held.append(frames)  # bounded by the window: it is not taken
            else:
                self._give(frames)
                self._tell()

    def broke(self, why: str) -> None:
        """The way to the other end is gone, or what it brings cannot be trusted."""
        if not self._bidden and not self.over.done():
            self._out.clear()
            self._bye()
            self._finish(WireBroken(why, peer=self.peer))

    def _give(self, frames: list[Buffer]) -> None:
        self._taken += 1
        self._untold_bytes += sum(map(len, frames))
        if self._receiver is not None:
            self._receiver.frames_received(frames)

    def _tell(self) -> None:
        """Once a quarter of the window was taken since the other end last heard of it, it is told."""
        much = self._taken - self._told >= WINDOW_PACKETS // 4 or self._untold_bytes >= WINDOW_BYTES // 4
        if much and not self.over.done():
            self._told, self._untold_bytes = self._taken, 0
            self._transmit(write_packet(Kind.TAKEN, self._sent, self._taken))

    def _acknowledged(self, taken: int) -> None:
        gone = taken - (self._sent - len(self._in_flight))
        for _ in range(min(gone, len(self._in_flight))):
            self._in_flight_bytes -= self._in_flight.popleft()
        if gone > 0 and (self._out or self._closing):
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """What is ready leaves in as few packets as it takes, as far as the window allows."""
        self._scheduled = False
        if self.over.done():
            return
        while self._out and len(self._in_flight) < WINDOW_PACKETS and self._in_flight_bytes < WINDOW_BYTES:
            frames, size = [], HEAD.size
            while self._out and size + 4 + len(self._out[0]) <= self._max_packet:
                frame = self._out.popleft()
                frames.append(frame)
                size += 4 + len(frame)
                self._out_bytes -= 4 + len(frame)
            self._sent += 1
            self._in_flight.append(size)
            self._in_flight_bytes += size
            self._told, self._untold_bytes = self._taken, 0
            self._transmit(write_packet(Kind.FRAMES, self._sent, self._taken, frames))
        if self._full and self._out_bytes <= HIGH_WATER_BYTES // 4 and not self._closing:
            self._full = False
            if self._receiver is not None:
                self._receiver.writable()
        if self._closing and not self._out:
            self.parted = True
            self._bye()
            self._finish(None)

    def _bye(self) -> None:
        self._transmit(write_packet(Kind.BYE, self._sent, self._taken))

    def _finish(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():
            self.over.set_result(None)
            self._held.clear()
            self._ended(self)
            if self._receiver is not None:
                self._receiver.channel_lost(error)
