"""What a batch brought, record by record: repeats are dropped by their numbers, a gap ends the channel only.

Bytes that may come right on another channel are a ProtocolError; what the peer must never say is a `Violation`, which
ends the session.  A stream that is over here gets what is still on its way to it: that is dropped and counted.
"""

from __future__ import annotations

from struct import error as StructError

from dynlog.call_errors import ProtocolError
from dynlog.network.frames import (
    BATCH,
    CREDIT,
    CRITICAL_FLAGS,
    EMPTY_FLAG,
    END_FLAG,
    ERROR,
    EVENT,
    IGNORABLE,
    MORE_FLAG,
    NO_DEADLINE,
    RECORD,
    Code,
    RecordKind,
    Violation,
    damaged,
)
from dynlog.network.session_events import (
    CancelledByPeer,
    Ended,
    Event,
    Failed,
    GoingAway,
    Message,
    Opened,
    Pushed,
    Writable,
)
from dynlog.network.session_meta import read_meta
from dynlog.network.session_sending import Sending
from dynlog.network.session_settings import Settings
from dynlog.network.session_stream import Stream
from dynlog.network.session_streams import PUSHES

_unpack_batch = BATCH.unpack_from
_unpack_record = RECORD.unpack_from
_new = tuple.__new__
_OPEN, _DATA = int(RecordKind.OPEN), int(RecordKind.DATA)
_RECORD_SIZE = RECORD.size


class Reading(Sending):
    """Streams, and what the peer sends on them."""

    __slots__ = ("_batches_received", "_dialler", "_received", "_repeats")

    def __init__(self, settings: Settings, dialler: bool) -> None:
        super().__init__(settings, 1 if dialler else 2)
        self._dialler = dialler
        self._received = 0
        """The number of the next record that is waited for."""
        self._batches_received = self._repeats = 0

    def _batch(self, frame: bytes, now: float, events: list[Event]) -> None:
        """Applies a batch; what came whole before an error counts.  Raises ProtocolError for damage, and Violation."""
        try:
            _, count, first, acked = _unpack_batch(frame)
        except StructError:
            raise damaged("head of a batch", len(frame), BATCH.size) from None
        outbox = self._outbox
        if acked != outbox.acked:
            outbox.acknowledge(acked)
            if self._starved and outbox.relaxed:
                self._wake()
        number = self._received
        if first > number:
            raise ProtocolError(f"a batch begins with record {first}: {number} is needed, so some were lost on the way")
        self._batches_received += 1
        at = BATCH.size
        if first < number:
            at, skipped = self._skip(frame, count, number - first)
            count -= skipped
        live = self._live
        append = events.append
        max_message_bytes = self._ours.max_message_bytes
        try:
            for _ in range(count):
                length, kind, flags, stream_id = _unpack_record(frame, at)
                at += _RECORD_SIZE
                stop = at + length
                if stop > len(frame):
                    raise damaged(f"record {number}", len(frame) - at, length)
                if kind == _DATA:
                    stream = live.get(stream_id)
                    if stream is None:
                        self._stray(stream_id, number)
                    elif flags > END_FLAG or stream.parts is not None:
                        self._piece(stream, flags, frame[at:stop], events)
                    else:
                        stream.receive_messages -= 1
                        if stream.receive_messages < 0 or stream.receive_bytes < 1 or not stream.receiving:
                            raise self._uncredited(stream)
                        if length > max_message_bytes:
                            raise self._too_long(stream, length)
                        stream.receive_bytes -= length
                        if flags:
                            stream.receiving = False
                            if not stream.sending:
                                self._forget(stream)
                            append(_new(Message, (stream, frame[at:stop], True)))
                        else:
                            append(_new(Message, (stream, frame[at:stop], False)))
                elif kind == _OPEN:
                    self._opening(stream_id, flags, frame, at, stop, number, now, events)
                else:
                    self._control(kind, flags, stream_id, frame[at:stop], number, events)
                number += 1
                at = stop
        except StructError:
            raise damaged(f"head of record {number}", max(len(frame) - at, 0), _RECORD_SIZE) from None
        finally:
            self._received = number
        if at != len(frame):
            raise damaged(f"batch of {count} records", len(frame), at)

    def _skip(self, frame: bytes, count: int, repeated: int) -> tuple[int, int]:
        """Where the first record lies that is new, and how many were skipped."""
        at, skipped = BATCH.size, 0
        while skipped < min(count, repeated):
            if at + _RECORD_SIZE > len(frame):
                raise damaged("head of a repeated record", len(frame) - at, _RECORD_SIZE)
            at += _RECORD_SIZE + _unpack_record(frame, at)[0]
            skipped += 1
        self._repeats += skipped
        return at, skipped

    def _stray(self, stream_id: int, number: int) -> None:
        """A record for a stream that is not there: late if it was, else a violation."""
        if stream_id & 1 == self._dialler:
            known = stream_id < self._next_id
        else:
            known = stream_id <= self._last_peer_id
        if not known:
            raise Violation(f"record {number} is for stream {stream_id}, which was never opened")
        self._late += 1

    def _opening(
        self, stream_id: int, flags: int, frame: bytes, at: int, stop: int, number: int, now: float, events: list[Event]
    ) -> None:
        if stream_id <= self._last_peer_id or stream_id & 1 == self._dialler:
            parity = "even" if self._dialler else "odd"
            raise Violation(
                f"record {number} opens stream {stream_id}: an {parity} number above {self._last_peer_id} is needed"
            )
        ms, meta, body_at = read_meta(frame, at, stop, number)
        body = frame[body_at:stop]
        self._last_peer_id = stream_id
        if self._going or self._opened_there >= self._ours.max_streams:
            self._refuse(stream_id)
            return
        theirs = self._theirs
        assert theirs is not None
        stream = Stream(stream_id, False, None if ms == NO_DEADLINE else now + ms / 1000, number, theirs, self._ours)
        self._live[stream_id] = stream
        self._opened_there += 1
        if flags == END_FLAG:
            if len(body) > self._ours.max_message_bytes:
                raise self._too_long(stream, len(body))
            stream.receiving = False
            events.append(_new(Opened, (stream, meta, body, True)))
        elif flags & EMPTY_FLAG:
            if flags & (CRITICAL_FLAGS ^ EMPTY_FLAG) != END_FLAG or body:
                raise Violation(
                    f"record {number} opens a stream without a message that has {len(body)} bytes or goes on"
                )
            stream.receiving = False
            events.append(Opened(stream, meta, None, True))
        else:
            stream.meta = meta
            self._piece(stream, flags, body, events)

    def _refuse(self, stream_id: int) -> None:
        if self._going:
            self._put_error(stream_id, Code.DRAINING, "Draining", "no further calls are taken here")
        else:
            said = f"{self._opened_there} calls are open, the most that are taken here"
            self._put_error(stream_id, Code.OVERLOADED, "Overloaded", said)

    def _piece(self, stream: Stream, flags: int, body: bytes, events: list[Event]) -> None:
        """A message or a piece of one, by the long way."""
        if flags & CRITICAL_FLAGS not in (0, MORE_FLAG, END_FLAG if stream.id else 0):
            raise Violation(f"{stream}: flags {flags:#04x} are not known in version 1 of the protocol")
        if not stream.receiving and stream.meta is None:
            raise self._uncredited(stream)
        if stream.parts is None:
            stream.receive_messages -= 1
            if stream.receive_messages < 0 or stream.receive_bytes < 1:
                raise self._uncredited(stream)
            stream.parts, stream.parts_bytes = [], 0
        stream.receive_bytes -= len(body)
        stream.parts_bytes += len(body)
        if stream.parts_bytes > self._ours.max_message_bytes:
            raise self._too_long(stream, stream.parts_bytes)
        stream.parts.append(body)
        if flags & MORE_FLAG:
            return
        whole = b"".join(stream.parts)
        stream.parts = None
        end = bool(flags & END_FLAG)
        meta, stream.meta = stream.meta, None
        if stream.id == PUSHES:
            assert meta is not None
            events.append(Pushed(meta[0], meta[1], whole))
            return
        if end:
            stream.receiving = False
            if not stream.sending:
                self._forget(stream)
        if meta is not None:
            events.append(_new(Opened, (stream, meta, whole, end)))
        else:
            events.append(_new(Message, (stream, whole, end)))

    def _control(self, kind: int, flags: int, stream_id: int, body: bytes, number: int, events: list[Event]) -> None:
        """Every record but OPEN and DATA."""
        if kind >= IGNORABLE:
            return
        if stream_id and kind in (RecordKind.EVENT, RecordKind.GOAWAY):
            raise Violation(f"record {number} of kind {kind} is for stream {stream_id}: it belongs to none")
        if kind == RecordKind.EVENT:
            self._pushed(flags, body, number, events)
            return
        if flags & CRITICAL_FLAGS:
            raise Violation(f"record {number} of kind {kind} has flags {flags:#04x}, which are not known here")
        if kind == RecordKind.GOAWAY:
            self._peer_going = True
            events.append(GoingAway(_utf8(body, number)))
            return
        if kind not in _ON_STREAMS:
            raise Violation(f"record {number} is of kind {kind}, which is not known in version 1 of the protocol")
        stream = self._live.get(stream_id)
        if kind == RecordKind.CREDIT:
            if len(body) < CREDIT.size:
                raise Violation(f"CREDIT of record {number}: {len(body)} bytes are there and {CREDIT.size} are needed")
            if stream is None:
                self._stray(stream_id, number)
            else:
                messages, size = CREDIT.unpack_from(body)
                self._credited(stream, messages, size, events)
            return
        code, what, said = _error(body, number) if kind == RecordKind.ERROR else (0, "", _utf8(body, number))
        if stream_id == PUSHES:
            raise Violation(f"record {number} of kind {kind} would end the stream of pushed messages, which has no end")
        if stream is None:
            self._stray(stream_id, number)
        elif kind == RecordKind.END:
            if not stream.receiving or stream.parts is not None:
                raise Violation(f"record {number} ends {stream} in the middle of a message, or again")
            stream.receiving = False
            if not stream.sending:
                self._forget(stream)
            events.append(Ended(stream))
        else:
            heard_of = stream.meta is None
            self._abandon(stream)
            if heard_of:
                failed = kind == RecordKind.ERROR
                events.append(Failed(stream, code, what, said) if failed else CancelledByPeer(stream, said))

    def _credited(self, stream: Stream, messages: int, size: int, events: list[Event]) -> None:
        stream.send_messages += messages
        stream.send_bytes += size
        if stream.waiting and stream.rest is None and stream.send_messages > 0 and stream.send_bytes > 0:
            stream.waiting = False
            events.append(Writable(stream if stream.id else None))

    def _pushed(self, flags: int, body: bytes, number: int, events: list[Event]) -> None:
        if len(body) < EVENT.size:
            raise Violation(f"EVENT of record {number}: {len(body)} bytes are there and {EVENT.size} are needed")
        target, size = EVENT.unpack_from(body)
        at = EVENT.size + size
        if at > len(body):
            raise Violation(f"EVENT of record {number}: a topic of {size} bytes and {len(body) - EVENT.size} are there")
        pushes = self._pushes
        if pushes.parts is not None:
            raise Violation(f"EVENT of record {number}: the one before has not ended")
        pushes.meta = (target, _utf8(body[EVENT.size : at], number))
        self._piece(pushes, flags, body[at:], events)

    def _too_long(self, stream: Stream, size: int) -> Violation:
        return Violation(f"{stream}: a message of {size} bytes or more, of {self._ours.max_message_bytes} allowed")

    def _uncredited(self, stream: Stream) -> Violation:
        if not stream.receiving:
            return Violation(f"{stream}: a message after the end of the peer's direction")
        return Violation(f"{stream}: a message for which the peer had no credit")


_ON_STREAMS = frozenset({RecordKind.END, RecordKind.ERROR, RecordKind.CANCEL, RecordKind.CREDIT})


def _error(body: bytes, number: int) -> tuple[int, str, str]:
    if len(body) < ERROR.size:
        raise Violation(f"ERROR of record {number}: {len(body)} bytes are there and {ERROR.size} are needed")
    code, kind_size, text_size = ERROR.unpack_from(body)
    middle = ERROR.size + kind_size
    need = middle + text_size
    if need > len(body):
        raise Violation(f"ERROR of record {number}: {len(body)} bytes are there and {need} are needed")
    return code, _utf8(body[ERROR.size : middle], number), _utf8(body[middle:need], number)


def _utf8(raw: bytes, number: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Violation(f"record {number}: {raw[:40]!r} is no UTF-8") from None
