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
_BATCH, _BATCH_SIZE = int(FrameKind.BATCH), BATCH.size
_pack_batch = BATCH.pack


class Outbox:
    """The records of one end, in the order of their numbers."""

    __slots__ = (
        "_max_bytes",
        "_max_records",
        "_sent",
        "acked",
        "batches",
        "bytes_sent",
        "first",
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
        self.first = 0
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
        saved = len(self.ready[number - self.first]) - len(NOTHING)
        self.ready[number - self.first] = NOTHING
        self.ready_bytes -= saved
        self.held -= saved
        return True

    def batch(self, received: int, most: int, more: Callable[[int], list[bytes | memoryview]] | None) -> bytes | None:
        """The next frame, of at most ``most`` bytes: what is ready, then what ``more`` adds; None: there is nothing.

        ``more`` is asked for further records within so many bytes, and puts them by `added` itself.
        """
        ready = self.ready
        if BATCH.size + self.ready_bytes > most:
            return self._part(received, most)
        if more is not None:
            left = most - BATCH.size - self.ready_bytes
            self.ready, self.ready_bytes = [], 0
            pieces = [*ready, *more(left)]
            if not pieces:
                return None
            return self._leaves(received, self.next - self.first, b"".join(pieces))
        if not ready:
            return None
        count = len(ready)
        self.ready, self.ready_bytes = [], 0
        return self._leaves(received, count, ready[0] if count == 1 else b"".join(ready))

    def _part(self, received: int, most: int) -> bytes:
        """As many of the records that are ready as fit."""
        count, size = 0, BATCH.size
        for record in self.ready:
            size += len(record)
            if size > most:
                break
            count += 1
        records = b"".join(self.ready[:count])
        del self.ready[:count]
        self.ready_bytes -= len(records)
        return self._leaves(received, count, records)

    def _leaves(self, received: int, count: int, records: bytes) -> bytes:
        first = self.first
        self.first = end = first + count
        frame = _pack_batch(_BATCH, count, first, received) + records
        self._sent.append((end, frame))
        self.held += _BATCH_SIZE
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
        if received > self.first:  # the peer got from an old channel what was made ready for a new one
            known = self.ready[: received - self.first]
            del self.ready[: len(known)]
            size = sum(map(len, known))
            self.ready_bytes -= size
            self.held -= size
            self.first = received

    def rewind(self, received: int) -> None:
        """Makes ready again what the peer has not got, for a new channel; its old batches are gone."""
        self.acknowledge(received)
        again: list[bytes] = []
        for end, frame in self._sent:
            count = BATCH.unpack_from(frame)[1]
            again += islice(_records(frame), max(self.acked - (end - count), 0), None)
        self._sent.clear()
        self.first = self.acked
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
