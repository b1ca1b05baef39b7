"""Frames on a stream of bytes: what TCP and Unix sockets share.  Damage, a cut or a stranger ends the channel.

    preface   "dynlog" 0x01 "\\n"      each side's first bytes: a stranger is known before anything is allocated for it
    frame     length u32 | crc32c u32 | bytes          (little-endian; the CRC is RFC 3720's, 0 where it is not used)
    goodbye   length 0xFFFFFFFF | 0                    the last frame of a side that closes; an end without is a break

Whoever closes says goodbye and reads on until the peer has said so too: a socket that is closed over bytes that nobody
read resets the connection, and what was on its way to the peer would be lost.  A frame over ``max_frame_bytes`` is
refused from its header, so a huge length costs nothing.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from google_crc32c import value as crc32c

from dynlog.call_errors import WireBroken
from dynlog.errors import ConfigurationError
from dynlog.record import Buffer
from dynlog.wire import HIGH_WATER_BYTES, Channel, Frame, Receiver

MAX_FRAME_BYTES = 1 << 20
PREFACE = b"dynlog\x01\n"
PREFACE_WITHIN_S = 10.0
"""How long a new connection may take to say who it is; thereafter it is ended."""
LINGER_S = 5.0
"""How long a closed channel may take to get rid of what was handed over."""
GOODBYE_S = 1.0
"""How long the peer of a closed channel may take to say goodbye once everything has left."""
_HEAD = struct.Struct("<II")
_GOODBYE = _HEAD.pack(0xFFFFFFFF, 0)
_JOIN_BELOW = 64 << 10
"""Frames up to here are copied into one write; larger ones are handed to the transport as they are."""


class Owner(Protocol):
    """Whoever knows of the channels that are connected."""

    def add(self, channel: StreamChannel, /) -> None:
        """Called as it is connected."""

    def discard(self, channel: StreamChannel, /) -> None:
        """Called as it is over."""


class StreamChannel(asyncio.Protocol):
    """One end of a channel over a connected stream; ``begin`` is called once both prefaces were exchanged."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(
        self,
        scheme: str,
        peer: str,
        begin: Callable[[Channel], Receiver],
        owner: Owner,
        *,
        checked: bool,
    ) -> None:
        self.scheme, self.peer = scheme, peer
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the peer's preface was read, or the connection ended before."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin, self._owner, self._checked = begin, owner, checked
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = len(PREFACE)
        self._full = self._paused = False
        self._ending = self._bidden = False
        """Whether this side, and the peer, want no more."""
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What the owner calls.

    def send(self, frames: Sequence[Frame]) -> bool:
        if self._ending or self._transport is None:
            return True
        checked, pieces, total = self._checked, [], 0
        for frame in frames:
            body = frame[0] if len(frame) == 1 else b"".join(frame)
            if type(body) is not bytes:
                body = bytes(body)  # its owner may write into it as soon as this returns
            size = len(body)
            if size > MAX_FRAME_BYTES:
                raise ConfigurationError(f"a frame of {size} bytes is over the {MAX_FRAME_BYTES} of {self.scheme}://")
            pieces.append(_HEAD.pack(size, crc32c(body) if checked else 0))
            pieces.append(body)
            total += size
        if total < _JOIN_BELOW:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)
        return not self._full

    def pause(self) -> None:
        if not self._ending and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            if self._chunks and self._have >= self._need:
                self.data_received(b"")  # what came with the preface, to a receiver that paused as it was made
            self._transport.resume_reading()

    def close(self) -> None:
        if self._ending or self._transport is None:
            return
        if self._receiver is None:
            self.abort()
            return
        self._transport.write(_GOODBYE)
        self._set_timer(GOODBYE_S, self._linger)
        self._ending = True
        if self._bidden:
            self._transport.close()
        else:
            self.resume()

    def abort(self) -> None:
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Aborts a channel that nobody was given, and sees to it that it ends."""
        self.abort()
        if self._transport is not None:
            # uvloop tells nobody of the end of a connection whose dial was cancelled once it had been made.
            asyncio.get_running_loop().call_soon(self.connection_lost, None)

    def _linger(self) -> None:
        """A peer that never reads would keep what was handed over, and this channel, for ever."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            self._set_timer(LINGER_S - GOODBYE_S, self._transport.abort)
        else:
            self._transport.abort()

    def _set_timer(self, seconds: float, then: Callable[..., object], *arguments: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then, *arguments)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's only behaves like one
        self._owner.add(self)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=HIGH_WATER_BYTES // 4)
        transport.write(PREFACE)
        self._set_timer(PREFACE_WITHIN_S, self._break, "it did not say who it is")

    def data_received(self, data: bytes) -> None:
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        if self._receiver is None:
            if not self._greeted(data):
                return
            data = data[len(PREFACE) :]
            if self._paused:
                self._chunks, self._have, self._need = [data], len(data), 0
                return
        unwanted = self._ending  # read for the peer's goodbye alone
        frames: list[Buffer] = []
        at, end, unpack = 0, len(data), _HEAD.unpack_from
        while end - at >= 8:
            size, crc = unpack(data, at)
            if size > MAX_FRAME_BYTES:
                end = self._odd(size)
                break
            after = at + 8 + size
            if after > end:
                break
            body = data[at + 8 : after]
            if self._checked and crc32c(body) != crc:
                self._break(f"a frame of {size} bytes does not have its CRC: the bytes were changed on the way")
                end = 0
                break
            frames.append(body)
            at = after
        if at < end:
            self._keep(data[at:] if at else data, size if end - at >= 8 else 0)
        if frames and not unwanted and self._receiver is not None:
            self._receiver.frames_received(frames)

    def _keep(self, rest: bytes, size: int) -> None:
        """The beginning of a frame waits for the rest of it."""
        self._chunks.append(rest)
        self._have, self._need = len(rest), 8 + size

    def _greeted(self, data: bytes) -> bool:
        if self._ending:
            return False
        if not PREFACE.startswith(data[: len(PREFACE)]):
            self._break(f"it began with {data[: len(PREFACE)]!r} and not with {PREFACE!r}: no dynlog speaks there")
        elif len(data) < len(PREFACE):
            self._chunks, self._have = [data], len(data)
        else:
            self._need = 8
            if self._timer is not None:
                self._timer.cancel()
            self._receiver = self._begin(self)
            if not self.ready.done():
                self.ready.set_result(None)
            return True
        return False

    def _odd(self, size: int) -> int:
        if size == 0xFFFFFFFF:
            self._bidden = True
            if self._ending and self._transport is not None:
                self._transport.close()
            self.close()
        else:
            self._break(f"a frame of {size} bytes was announced, over the {MAX_FRAME_BYTES} that are allowed")
        return 0

    def _break(self, why: str) -> None:
        if not self._ending:
            self._error = WireBroken(why, peer=self.peer)
        self.abort()

    def eof_received(self) -> bool:
        # It takes nothing any more, either: what waits for it would keep the connection for ever.
        if self._transport is not None:
            self._transport.abort()
        return False

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._receiver is not None and not self._ending:
            self._receiver.writable()

    def connection_lost(self, error: Exception | None) -> None:
        if self.over.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        self._owner.discard(self)
        if self._error is None and not self._ending:
            rest = (
                f" within a frame, after {self._have} of {self._need} bytes" if self._chunks else " without a goodbye"
            )
            self._error = WireBroken(f"the connection ended{rest}{f': {error}' if error else ''}", peer=self.peer)
        self._ending = True
        self._chunks.clear()
        if not self.ready.done():
            self.ready.set_exception(self._error or WireBroken("it was closed before it began", peer=self.peer))
            self.ready.exception()  # a listener's channel has nobody who asks
        if self._receiver is not None:
            self._receiver.channel_lost(self._error)
        self.over.set_result(None)
