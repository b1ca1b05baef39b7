"""Every record has a number and is kept until the peer has it; on a new channel, what it has not got goes again.

Records wait in ``ready`` one by one, leave in batches, and rest as the batches that left.  What rests and what waits is
bounded together: when full, `room` is False and nothing is put but the records that end streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from dynlog.call_errors import ProtocolError
from dynlog.network.frames import BATCH, RECORD, FrameKind, RecordKind

NOTHING = RECORD.pack(0, 0x80, 0, 0)
"""A record that every peer skips; it stands where one was taken back, so that the numbers stay."""


class Outbox:
    """The records of one end, in the order of their numbers."""

    __slots__ = (
        "_first",
        "_max_bytes",
        "_max_records",
        "_sent",
        "acked",
        "batches",
        "bytes_sent",
        "handed",
        "held",
        "next",
        "ready",
        "ready_bytes",
        "resent",
    )

    def __init__(self, max_bytes: int, max_records: int) -> None:
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._sent: deque[tuple[int, bytes]] = deque()
        """Batches that left: the number after their last record, and the frame."""
        self._first = 0
        """The number of the first record in ``ready``."""
        self.ready: list[bytes] = []
        self.ready_bytes = 0
        self.next = 0
        """The number of the next record."""
        self.acked = 0
        """The peer has every record below."""
        self.handed = 0
        """Every record below was handed to a channel once."""
        self.held = 0
        """Bytes that wait and rest."""
        self.batches = self.bytes_sent = self.resent = 0

    @property
    def records(self) -> int:
        """How many records wait and rest."""
        return self.next - self.acked

    @property
    def room(self) -> bool:
        """Whether anything new may be put."""
        return self.held < self._max_bytes and self.next - self.acked < self._max_records

    @property
    def relaxed(self) -> bool:
        """Whether so much has left that those who wait for room should try again."""
        return self.held * 2 <= self._max_bytes and (self.next - self.acked) * 2 <= self._max_records

    def put(self, record: bytes) -> None:
        """Takes a record; whoever calls has looked at `room`, or ends a stream."""
        self.ready.append(record)
        size = len(record)
        self.ready_bytes += size
        self.held += size
        self.next += 1

    def take_back(self, number: int) -> bool:
        """Makes nothing of a record that was never handed to a channel; False: it was."""
        if number < self.handed:
            return False
        saved = len(self.ready[number - self._first]) - len(NOTHING)
        self.ready[number - self._first] = NOTHING
        self.ready_bytes -= saved
        self.held -= saved
        return True

    def batch(self, received: int, most: int, more: Callable[[int], list[bytes | memoryview]] | None) -> bytes | None:
        """The next frame, of at most ``most`` bytes: what is ready, then what ``more`` adds; None: there is nothing.

        ``more`` is asked for further records within so many bytes, and puts them by `added` itself.
        """
        ready = self.ready
        if BATCH.size + self.ready_bytes <= most:
            count = len(ready)
            pieces: list[bytes | memoryview] = [b"", *ready]
            self.ready = []
            left = most - BATCH.size - self.ready_bytes
            self.ready_bytes = 0
            if more is not None:
                before = self.next
                pieces += more(left)
                count += self.next - before
            if not count:
                return None
        else:
            size = BATCH.size
            count = 0
            for record in ready:
                size += len(record)
                if size > most:
                    break
                count += 1
            pieces = [b"", *ready[:count]]
            del ready[:count]
            self.ready_bytes -= sum(map(len, pieces))
        first = self._first
        self._first = end = first + count
        pieces[0] = BATCH.pack(FrameKind.BATCH, count, first, received)
        frame = b"".join(pieces)
        self._sent.append((end, frame))
        self.held += BATCH.size
        if end > self.handed:
            self.handed = end
        self.batches += 1
        self.bytes_sent += len(frame)
        return frame

    def added(self, size: int) -> None:
        """Counts a record that goes straight into the batch which is being made."""
        self.next += 1
        self.held += size

    def acknowledge(self, received: int) -> None:
        """The peer has every record below; raises ProtocolError if it says so of what was never sent."""
        if received > self.handed:
            raise ProtocolError(f"the peer has {received} records, it says, of {self.handed} that were sent")
        if received <= self.acked:
            return
        self.acked = received
        sent = self._sent
        while sent and sent[0][0] <= received:
            self.held -= len(sent.popleft()[1])
        if received > self._first:  # the peer got from an old channel what was made ready for a new one
            known = self.ready[: received - self._first]
            del self.ready[: len(known)]
            size = sum(map(len, known))
            self.ready_bytes -= size
            self.held -= size
            self._first = received

    def rewind(self, received: int) -> None:
        """Makes ready again what the peer has not got, for a new channel; its old batches are gone."""
        self.acknowledge(received)
        again: list[bytes] = []
        for end, frame in self._sent:
            count = BATCH.unpack_from(frame)[1]
            again += islice(_records(frame), max(self.acked - (end - count), 0), None)
        self._sent.clear()
        self._first = self.acked
        self.resent += len(again)
        self.ready = again + self.ready
        self.ready_bytes = self.held = sum(map(len, self.ready))

    def rewrite(self, kind: RecordKind, change: Callable[[int, bytes], bytes]) -> None:
        """Changes the records of one kind that are ready, given the stream of each; their lengths stay."""
        for index, record in enumerate(self.ready):
            _, this, _, stream = RECORD.unpack_from(record)
            if this == kind:
                self.ready[index] = change(stream, record)


def _records(frame: bytes) -> list[bytes]:
    """The records of a batch that this end made."""
    at, records = BATCH.size, []
    while at < len(frame):
        stop = at + RECORD.size + RECORD.unpack_from(frame, at)[0]
        records.append(frame[at:stop])
        at = stop
    return records
