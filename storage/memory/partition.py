"""One partition in memory: stored appends in offset order, the marks seen, and who waits for more."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from dynlog.batch import Batch, BatchBuilder, slice_columns
from dynlog.codec import Columns, decode_records
from dynlog.marks import MarkState
from dynlog.storage.ledger import Segment, has_expired
from dynlog.topics import PartitionState

NO_COLUMNS = Columns([], [], None, None, None, [])


class Stored(NamedTuple):
    """What one append stored: encoded, so that nothing of the caller's is shared."""

    segment: Segment
    payload: bytes


class Waiter(NamedTuple):
    """A read that waits, in whatever event loop it runs."""

    loop: asyncio.AbstractEventLoop
    event: asyncio.Event

    def wake(self) -> None:
        """Wakes it, from any thread."""
        with suppress(RuntimeError):  # its loop was closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.event.set)


@dataclass(slots=True)
class Partition:
    """Offsets ``earliest <= o < end``; every method is called under the log's lock and does not block."""

    number: int
    earliest: int = 0
    end: int = 0
    size: int = 0
    last_log_time_ms: int = 0
    stored: list[Stored] = field(default_factory=list)
    marks: dict[str, MarkState] = field(default_factory=dict)
    waiters: set[Waiter] = field(default_factory=set)

    def store(self, payload: bytes, count: int, log_time_ms: int) -> None:
        """Adds ``count`` encoded records at the end and wakes whoever waits for them."""
        segment = Segment(self.end, self.end + count, log_time_ms, len(payload))
        self.stored.append(Stored(segment, payload))
        self.end, self.last_log_time_ms = segment.next, log_time_ms
        self.size += segment.size
        self.wake()

    def wake(self) -> None:
        """Wakes every read that waits here."""
        for waiter in self.waiters:
            waiter.wake()

    def find(self, offset: int, max_records: int | None, max_bytes: int) -> list[Stored]:
        """The stored appends that a read from ``offset`` returns: at least one if there is one."""
        found: list[Stored] = []
        records = size = 0
        for item in self._from(offset):
            if found and size + item.segment.size > max_bytes:
                break
            found.append(item)
            size += item.segment.size
            records += item.segment.next - max(item.segment.base, offset)
            if max_records is not None and records >= max_records:
                break
        return found

    def _from(self, offset: int) -> Iterator[Stored]:
        first = max(bisect_right(self.stored, offset, key=lambda item: item.segment.base) - 1, 0)
        for index in range(first, len(self.stored)):
            if self.stored[index].segment.next > offset:
                yield self.stored[index]

    def segments(self) -> Iterator[Segment]:
        """What is stored, from the start."""
        return (item.segment for item in self.stored)

    def bytes_from(self, offset: int) -> int:
        """What lies from ``offset`` on."""
        return sum(item.segment.size for item in self._from(offset))

    def offset_at(self, log_time_ms: int) -> int:
        """The first offset whose log time is at or after that; the end if there is none."""
        index = bisect_left(self.stored, log_time_ms, key=lambda item: item.segment.log_time_ms)
        return self.end if index == len(self.stored) else max(self.stored[index].segment.base, self.earliest)

    def truncate(self, before: int) -> None:
        """Removes the records below ``before`` and frees the appends that lie below it as a whole."""
        self.earliest = max(self.earliest, before)
        gone = sum(1 for _ in takewhile(lambda segment: segment.next <= self.earliest, self.segments()))
        self.size -= sum(item.segment.size for item in self.stored[:gone])
        del self.stored[:gone]

    def forget_expired_marks(self) -> None:
        """Drops the marks of producers that were silent for longer than the contract remembers them."""
        for producer_id, state in list(self.marks.items()):
            if has_expired(state, self.last_log_time_ms):
                del self.marks[producer_id]

    def state(self) -> PartitionState:
        """The partition as the contract describes it."""
        return PartitionState(self.number, self.earliest, self.end, self.size, len(self.stored), self.last_log_time_ms)


def build_batch(
    topic: str, incarnation: str, partition: int, offset: int, end: int, found: Sequence[Stored], limit: int | None
) -> Batch:
    """The records of ``found`` from ``offset`` on, at most ``limit``; decodes, so it runs outside the lock."""
    if not found:
        return Batch(topic, incarnation, partition, array("q"), array("q"), NO_COLUMNS, offset, end)
    builder = BatchBuilder()
    for segment, payload in found:
        columns = decode_records(payload)
        skip = max(offset - segment.base, 0)
        if skip:
            columns = slice_columns(columns, skip, segment.next - segment.base)
        builder.add(columns, range(segment.base + skip, segment.next), segment.log_time_ms)
    batch = builder.build(topic, incarnation, partition, found[-1].segment.next, end)
    return batch if limit is None else batch.slice(0, limit)
