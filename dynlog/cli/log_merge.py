"""What a topic holds at one moment, as one stream: partitions are merged by log time, order within each is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from heapq import heapify, heappop, heapreplace

from dynlog.batch import Position, StoredRecord
from dynlog.dedupe import DedupeTable
from dynlog.log import DEFAULT_READ_BYTES, Log

MERGE_BYTES = 16 << 20
"""All partitions together are read ahead by about this much."""
LEAST_READ_BYTES = 16 << 10


class Backlog:
    """The records from ``positions`` up to ``ends``, in log time; of equal times the lower partition's come first.

    `positions` are the places up to which it was read; once `records` ended, that is ``ends``.
    """

    def __init__(
        self, log: Log, positions: Mapping[int, Position], ends: Mapping[int, int], dedupe: DedupeTable | None
    ) -> None:
        self.positions = dict(positions)
        self._log = log
        self._ends = ends
        self._dedupe = dedupe
        self._read_bytes = max(min(MERGE_BYTES // len(positions), DEFAULT_READ_BYTES), LEAST_READ_BYTES)

    async def records(self) -> AsyncGenerator[StoredRecord, None]:
        """Raises what `Log.read` raises."""
        heads = []
        for partition in self.positions:
            source = self._records(partition)
            if (first := await anext(source, None)) is not None:
                heads.append((first.log_time_ms, partition, first, source))
        heapify(heads)  # a partition has one head, so equal times never compare records
        while heads:
            _, partition, stored, source = heads[0]
            if (following := await anext(source, None)) is not None:
                heapreplace(heads, (following.log_time_ms, partition, following, source))
            else:
                heappop(heads)
            yield stored

    async def _records(self, partition: int) -> AsyncIterator[StoredRecord]:
        end = self._ends[partition]
        # A position beyond the end is read as well: the log then says what is wrong with it.
        while (position := self.positions[partition]).offset != end:
            batch = await self._log.read(position, max_bytes=self._read_bytes)
            if batch.next_offset == position.offset:
                return
            self.positions[partition] = position._replace(offset=min(batch.next_offset, end))
            for stored in self._dedupe.filter(batch) if self._dedupe is not None else batch:
                if stored.offset < end:
                    yield stored
