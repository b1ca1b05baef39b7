"""The streams of one end: which are open, what waits for credit or room, and in which order long messages leave."""

from __future__ import annotations

from collections import deque

from dynlog.network.frames import (
    CREDIT,
    END_FLAG,
    ERROR,
    MAX_ERROR_KIND_BYTES,
    MAX_ERROR_TEXT_BYTES,
    MORE_FLAG,
    RECORD,
    RecordKind,
)
from dynlog.network.session_events import Event, Lost, Writable
from dynlog.network.session_meta import restated
from dynlog.network.session_outbox import Outbox
from dynlog.network.session_settings import Limits, Settings
from dynlog.network.session_stream import Stream

PUSHES = 0
"""The number of the stream of all pushed messages: it has credit, and neither beginning nor end."""
_U32 = (1 << 32) - 1
_OPEN, _DATA, _END = int(RecordKind.OPEN), int(RecordKind.DATA), int(RecordKind.END)
_pack_record = RECORD.pack


class Streams:
    """The streams that are open at one end; `dynlog.network.session_sending` is what their users do with them."""

    __slots__ = (
        "_chunk_bytes",
        "_chunking",
        "_going",
        "_granting",
        "_happened",
        "_last_peer_id",
        "_late",
        "_live",
        "_max_message_bytes",
        "_most_records",
        "_next_id",
        "_opened_here",
        "_opened_there",
        "_ours",
        "_outbox",
        "_over",
        "_peer_going",
        "_pushes",
        "_starved",
        "_theirs",
    )

    def __init__(self, settings: Settings, first_id: int) -> None:
        self._ours = settings.limits
        self._theirs: Limits | None = None
        """What the peer takes; None before the first handshake."""
        self._chunk_bytes = settings.chunk_bytes
        self._max_message_bytes = 0
        self._outbox = Outbox(settings.resend_bytes, settings.resend_records)
        self._most_records = 2 * (settings.resend_records + self._ours.max_streams)
        self._live: dict[int, Stream] = {}
        self._next_id = first_id
        """Of streams that this end opens: odd for the dialler, even for the acceptor."""
        self._last_peer_id = 0
        self._opened_here = 0
        self._opened_there = 0
        self._pushes = Stream(PUSHES, True, None, 0, self._ours, self._ours)
        self._pushes.receiving = False  # only EVENT begins a message on it
        self._chunking: deque[Stream] = deque()
        self._starved: dict[Stream, None] = {}
        """Who waits for room; the stream of pushes stands for whoever opens or pushes."""
        self._granting: dict[Stream, None] = {}
        self._happened: list[Event] = []
        self._going = False
        """Whether this end takes no further streams."""
        self._peer_going = False
        self._over = False
        self._late = 0

    def _meet(self, theirs: Limits) -> None:
        """The peer has said what it takes."""
        self._theirs = theirs
        self._max_message_bytes = theirs.max_message_bytes
        pushes = self._pushes
        pushes.send_bytes, pushes.send_messages = theirs.push_bytes, theirs.push_messages
        pushes.receive_bytes, pushes.receive_messages = self._ours.push_bytes, self._ours.push_messages
        self._live[PUSHES] = pushes

    def _put_error(self, stream_id: int, code: int, kind: str, text: str) -> None:
        what, said = cut(kind, MAX_ERROR_KIND_BYTES), cut(text, MAX_ERROR_TEXT_BYTES)
        body = ERROR.pack(code, len(what), len(said)) + what + said
        self._outbox.put(_pack_record(len(body), RecordKind.ERROR, 0, stream_id) + body)

    def _forget(self, stream: Stream) -> None:
        """Both directions have ended."""
        del self._live[stream.id]
        if stream.local:
            self._opened_here -= 1
        else:
            self._opened_there -= 1

    def _abandon(self, stream: Stream) -> None:
        """The stream is over, whatever was on its way."""
        stream.sending = stream.receiving = stream.waiting = False
        if stream.rest is not None:
            stream.rest = None
            self._chunking.remove(stream)
        stream.parts = None
        self._starved.pop(stream, None)
        self._granting.pop(stream, None)
        self._forget(stream)

    def _more(self, room: int) -> list[bytes | memoryview]:
        """Pieces of long messages in turn, one of each stream, while the frame and the buffer have room."""
        pieces: list[bytes | memoryview] = []
        chunking, outbox = self._chunking, self._outbox
        while chunking and room >= RECORD.size + self._chunk_bytes and outbox.room:
            head, body = self._next_piece()
            pieces += (head, body)
            size = len(head) + len(body)
            outbox.added(size)
            room -= size
        return pieces

    def _next_piece(self) -> tuple[bytes, memoryview]:
        stream = self._chunking.popleft()
        rest = stream.rest
        assert rest is not None
        piece = rest[: self._chunk_bytes]
        if len(rest) > len(piece):
            stream.rest = rest[len(piece) :]
            self._chunking.append(stream)
            return _pack_record(len(piece), _DATA, MORE_FLAG, stream.id), piece
        stream.rest = None
        flags = 0
        if stream.rest_end:
            flags = END_FLAG
            stream.rest_end = stream.sending = False
            if not stream.receiving:
                self._forget(stream)
        elif stream.waiting:
            stream.waiting = False
            self._happened.append(Writable(stream if stream.id else None))
        return _pack_record(len(piece), _DATA, flags, stream.id), piece

    def _put_credits(self) -> None:
        """Tells the peer what was consumed here; credits that find no room are told later, in one."""
        granting, outbox = self._granting, self._outbox
        while granting and outbox.records < self._most_records:
            stream, _ = granting.popitem()
            if not stream.receiving and stream.id:
                continue
            messages, size = min(stream.returned_messages, _U32), min(stream.returned_bytes, _U32)
            stream.returned_messages -= messages
            stream.returned_bytes -= size
            stream.receive_messages += messages
            stream.receive_bytes += size
            stream.alone = False
            outbox.put(_pack_record(CREDIT.size, RecordKind.CREDIT, 0, stream.id) + CREDIT.pack(messages, size))

    def _wake(self) -> None:
        """There is room again."""
        starved = [stream for stream in self._starved if stream.sending]
        self._starved.clear()
        self._happened += [Writable(stream if stream.id else None) for stream in starved]

    def _restate_deadlines(self, now: float) -> None:
        """Calls that waited for a channel have less time left than when they were made."""

        def again(stream_id: int, record: bytes) -> bytes:
            stream = self._live.get(stream_id)
            if stream is None or stream.deadline is None or not stream.local:
                return record
            at = RECORD.size
            return record[:at] + restated(record[at:], stream.deadline - now)

        self._outbox.rewrite(RecordKind.OPEN, again)

    def _end_all(self) -> None:
        """The session is over, and with it every stream that anybody has heard of."""
        handed = self._outbox.handed
        for stream in self._live.values():
            stream.sending = stream.receiving = stream.waiting = False
            stream.rest = stream.parts = None
            if stream.id and stream.meta is None:
                self._happened.append(Lost(stream, not stream.local or stream.number < handed))
        self._live.clear()
        self._chunking.clear()
        self._granting.clear()
        self._starved.clear()
        self._opened_here = self._opened_there = 0


def cut(text: str, most: int) -> bytes:
    """The text in UTF-8, cut between two characters."""
    whole = text.encode("utf-8", "replace")
    return whole if len(whole) <= most else whole[:most].decode("utf-8", "ignore").encode()
