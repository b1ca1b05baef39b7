"""Frames on a stream of bytes: what TCP and Unix sockets share.  Damage, a cut or a stranger ends the channel.

    preface   "dynlog" 0x01 "\\n"      each side's first bytes: a stranger is known before anything is allocated for it
    frame     length u32 | crc32c u32 | bytes          (little-endian; the CRC is RFC 3720's, 0 where it is not used)
    goodbye   length 0xFFFFFFFF | 0                    the last frame of a side that closes; an end without is a break

A frame over ``max_frame_bytes`` is refused from its header, so a huge length costs nothing.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

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
_HEAD = struct.Struct("<II")
_GOODBYE = _HEAD.pack(0xFFFFFFFF, 0)
_JOIN_BELOW = 64 << 10
"""Frames up to here are copied into one write; larger ones are handed to the transport as they are."""


class StreamChannel(asyncio.Protocol):
    """One end of a channel over a connected stream; ``begin`` is called once both prefaces were exchanged."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, scheme: str, peer: str, begin: Callable[[Channel], Receiver], *, checked: bool) -> None:
        self.scheme, self.peer = scheme, peer
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the peer's preface was read, or the connection ended before."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin, self._checked = begin, checked
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = len(PREFACE)
        self._full = False
        self._ending = False
        self._error: Exception | None = None
        self._bidden = False
        self._timer: asyncio.TimerHandle | None = None

    # What the owner calls.

    def send(self, frames: Sequence[Frame]) -> bool:
        if self._ending or self._transport is None:
            return True
        checked, pieces, total = self._checked, [], 0
        for frame in frames:
            body: Buffer = frame[0] if len(frame) == 1 else b"".join(frame)
            size = len(body)
            if size > MAX_FRAME_BYTES:
                raise ConfigurationError(f"a frame of {size} bytes is over the {MAX_FRAME_BYTES} of {self.scheme}://")
            pieces.append(_HEAD.pack(size, crc32c(body if type(body) is bytes else bytes(body)) if checked else 0))
            pieces.append(body)  # type: ignore[arg-type]
            total += size
        if total < _JOIN_BELOW:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)
        return not self._full

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._ending or self._transport is None:
            return
        self._ending = True
        self._transport.write(_GOODBYE)
        self._transport.close()
        # A peer that never reads would keep what was handed over, and this channel, for ever.
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def abort(self) -> None:
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=HIGH_WATER_BYTES // 4)
        transport.write(PREFACE)
        self._timer = asyncio.get_running_loop().call_later(PREFACE_WITHIN_S, self._break, "it did not say who it is")

    def data_received(self, data: bytes) -> None:
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        if self._receiver is None:
            if self._ending or not self._greeted(data):
                return
            data = data[len(PREFACE) :]
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
        if frames and self._receiver is not None:
            self._receiver.frames_received(frames)

    def _keep(self, rest: bytes, size: int) -> None:
        """The beginning of a frame waits for the rest of it."""
        self._chunks.append(rest)
        self._have, self._need = len(rest), 8 + size

    def _greeted(self, data: bytes) -> bool:
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
            self.close()
        else:
            self._break(f"a frame of {size} bytes was announced, over the {MAX_FRAME_BYTES} that are allowed")
        return 0

    def _break(self, why: str) -> None:
        if self._error is None and self._transport is not None:
            self._error = WireBroken(why, peer=self.peer)
            self.abort()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._receiver is not None and not self._ending:
            self._receiver.writable()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._error is None and not self._ending and not self._bidden:
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
        if not self.over.done():
            self.over.set_result(None)
