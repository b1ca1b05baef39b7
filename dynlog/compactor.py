"""One compaction under way: fold to the end, move piece by piece under ``expect``, truncate (see `dynlog.compaction`).

It knows at any moment what the fold of everything up to its place is; each append is made of that and lies there or
nowhere.  Nothing that it has done has to be undone.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dynlog.batch import Position, StoredRecord
from dynlog.codec import encoded_bound
from dynlog.dedupe import DedupeTable
from dynlog.errors import BatchTooLarge, OffsetConflict, OutcomeUnknown
from dynlog.keeper import MOVED, MOVED_TIME, Keeper
from dynlog.log import Log
from dynlog.record import Record
from dynlog.timing import SYSTEM_CLOCK, Backoff, Deadline
from dynlog.topics import PartitionState, Topic

CHUNK_BYTES = 256 << 10
CHUNK_RECORDS = 1_000
READ_BYTES = 1 << 20
APPEND_S = 15.0
_PAUSES = Backoff(first=0.0005, factor=1.5, most=0.005)
_COSTLY_PAUSES = Backoff(first=0.002, most=0.1)
"""Where an append that loses takes space for all that."""
_NOWHERE = 1 << 62
_MANY = 20_000
_HEADER_BYTES = 2 * (10 + 20) + 4 * (len(MOVED) + len(MOVED_TIME))

Progress = Callable[[int, int], None]
"""Hears how many records were read and moved, and how many there will be about."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did, or would do: ``records`` there were, of which ``removable`` lay below ``start``, where the
    log was to begin; ``moved`` of them had to be appended anew.

    ``dirty`` is the share of records that went (``removable - moved``), or would go.  ``earliest`` is where the
    partition begins now; ``blocked_by`` names the holders that kept it from beginning at the end, and ``repeats`` says
    that records did whose repeats are there or may still come (only where marks are left to the reader).
    """

    topic: str
    partition: int
    done: bool
    records: int
    records_after: int
    removable: int
    moved: int
    dirty: float
    bytes: int
    bytes_after: int
    start: int
    earliest: int
    blocked_by: tuple[str, ...]
    repeats: bool = False
    conflicts: int = 0


class Compactor:
    """One run over one partition; whoever lets it go anywhere leaves a sound log."""

    def __init__(
        self, log: Log, topic: Topic, before: PartitionState, keeper: Keeper, repeats_s: float, deadline: Deadline,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self._log = log
        self._before = before
        self._next = Position(topic.name, topic.incarnation, before.partition, before.earliest)
        self._keeper = keeper
        self._repeats_s = repeats_s
        self._deadline = deadline
        self._progress = progress
        self._table = None if log.capabilities.checks_marks else DedupeTable()
        self._marked = -1  # offset of the last record that has a mark
        self._dropped = -1  # offset of the last record that no reader of everything takes
        self._log_time_ms = 0  # of the last record: by the log's clock it is at least so late
        self._counts = Counts()
        self._expected = before.end - before.earliest
        self._moved = self._conflicts = 0

    async def run(self, min_dirty: float, dry_run: bool) -> Compaction:
        """Folds, decides, moves, truncates; raises OffsetTruncated if others truncated what was still to be read."""
        held = await self._held()
        await self._fold_on()
        records, end = self._counts.total, self._next.offset
        possible = min([end, *held.values()])
        start = min(possible, await self._settled(self._now()))
        if self._dropped >= start:
            start = self._before.earliest
        removable = self._counts.below(start)
        planned = await self._begin(start) if removable else 0
        dirty = max(removable - planned, 0) / records if records else 0.0
        plan = Compaction(
            self._next.topic, self._before.partition, False, records, records, removable, planned, dirty,
            self._before.bytes, self._before.bytes, start, self._before.earliest, _before(held, end), start < possible,
        )  # fmt: skip
        if dry_run or removable <= planned or dirty < min_dirty:
            return plan
        self._expected = records + 2 * planned
        await self._move()
        while self._dropped >= start:  # one arrived meanwhile: it has to go, too
            start = min([self._next.offset, *(await self._held()).values(), await self._settled(self._now())])
            if self._dropped >= start:
                return await self._truncate(replace(plan, repeats=True), plan.earliest)
            await self._begin(start)
            await self._move()
        settled = await self._settled(self._log_time_ms)
        if settled < start:  # this machine's clock is ahead of the log's, as what was moved shows
            plan, start = replace(plan, repeats=True), settled if self._dropped < settled else plan.earliest
        held = await self._held()
        if min(held.values(), default=start) <= self._dropped:
            # A holder that came meanwhile would stop the truncation below what was dropped.
            plan, start = replace(plan, blocked_by=_before(held, start)), plan.earliest
        return await self._truncate(plan, start)

    async def _begin(self, start: int) -> int:
        """Has the keeper begin; where that is long, in a thread, since nobody else has the keeper meanwhile."""
        if self._counts.total < _MANY:
            return self._keeper.begin(start)
        return await asyncio.to_thread(self._keeper.begin, start)

    async def _held(self) -> dict[str, int]:
        """Where the holders stand that keep the partition from being truncated."""
        number = self._before.partition
        return {
            state.holder.name: state.holder.positions[number]
            for state in await self._log.holders(self._next.topic)
            if not state.expired and number in state.holder.positions
        }

    def _now(self) -> int:
        """The log's time, as far as can be known before anything was appended: this machine's clock may be ahead."""
        return max(self._log_time_ms, SYSTEM_CLOCK.time_ms())

    async def _settled(self, now_ms: int) -> int:
        """The offset below which at that log time no repeat has to be expected any more of anything that is marked."""
        if self._table is None or self._repeats_s <= 0 or self._marked < 0:
            return _NOWHERE
        since = now_ms - round(self._repeats_s * 1000)
        young = await self._log.offset_at(self._next.topic, self._next.partition, since)
        return young if young <= self._marked else _NOWHERE

    async def _fold_on(self) -> None:
        """Folds everything that there is; afterwards ``_next`` is the end."""
        while True:
            batch = await self._log.read(self._next, max_bytes=READ_BYTES)
            kept = batch if self._table is None else self._table.filter(batch)
            if batch.marks:
                last = batch.marks[-1]
                self._marked = batch.offsets[last.start + last.length - 1]
            if len(kept) < len(batch):
                self._dropped = max(set(batch.offsets).difference(kept.offsets))
            self._keeper.apply(kept)
            self._counts.add(batch.offsets)
            if len(batch):
                self._log_time_ms = batch.log_times[-1]
            self._next = batch.next_position
            self._tell()
            if batch.next_offset >= batch.end_offset:
                return

    async def _move(self) -> None:
        while await self._keeper.prepare(self._fetch):
            backoff = _PAUSES if self._log.capabilities.compare_and_append else _COSTLY_PAUSES
            pauses = iter(backoff)
            while True:
                await self._fold_on()
                records = self._keeper.make()
                if not records:
                    break
                try:
                    await self._append(records)
                except OffsetConflict:
                    self._conflicts += 1
                except OutcomeUnknown:  # folding on tells
                    pass
                else:
                    self._moved += len(records)
                    pauses = iter(backoff)
                    continue
                await asyncio.sleep(next(pauses))

    async def _append(self, records: Sequence[Record]) -> None:
        try:
            await self._log.append(
                self._next.topic, self._next.partition, records, expect=self._next.offset,
                timeout=min(APPEND_S, max(self._deadline.remaining, 0.001)),
            )  # fmt: skip
        except BatchTooLarge as error:
            raise BatchTooLarge(
                f"a record so large that with the header that says where it comes from it fits no append: {error}; the "
                "topic cannot be compacted while it is there",
                topic=self._next.topic, partition=self._next.partition,
            ) from None  # fmt: skip

    async def _fetch(self, offsets: Sequence[int], at: int) -> tuple[list[StoredRecord], int]:
        """See `dynlog.keeper.Fetch`."""
        found: list[StoredRecord] = []
        size = 0
        while at < len(offsets):
            batch = await self._log.read(self._next._replace(offset=offsets[at]), max_bytes=CHUNK_BYTES)
            until = max(bisect_left(offsets, batch.next_offset, at), at + 1)
            wanted = set(offsets[at:until])
            for stored in batch.select([i for i, offset in enumerate(batch.offsets) if offset in wanted]):
                size += encoded_bound(stored.record) + _HEADER_BYTES
                if found and (size > CHUNK_BYTES or len(found) == CHUNK_RECORDS):
                    return found, bisect_left(offsets, stored.offset, at)
                found.append(stored)
            at = until
        return found, at

    async def _truncate(self, plan: Compaction, start: int) -> Compaction:
        """The last step, and what came of it all."""
        done = await self._log.truncate(plan.topic, plan.partition, start, incarnation=self._next.incarnation)
        after = (await self._log.partitions(plan.topic))[plan.partition]
        gone = self._counts.below(done.earliest)
        return replace(
            plan,
            done=done.earliest == start > plan.earliest,
            records_after=self._counts.total - gone,
            removable=gone,
            moved=self._moved,
            dirty=max(gone - self._moved, 0) / plan.records,
            bytes_after=after.bytes,
            start=start,
            earliest=done.earliest,
            blocked_by=tuple(sorted({*plan.blocked_by, *done.blocked_by})),
            conflicts=self._conflicts,
        )

    def _tell(self) -> None:
        if self._progress is not None:
            done = self._counts.total + self._moved
            self._progress(done, max(self._expected, done))


def _before(held: Mapping[str, int], end: int) -> tuple[str, ...]:
    return tuple(sorted(name for name, offset in held.items() if offset < end))


class Counts:
    """How many records lie below an offset; exact but for holes within one read."""

    def __init__(self) -> None:
        self.total = 0
        self._firsts = array("q")
        self._before = array("q")

    def add(self, offsets: Sequence[int]) -> None:
        """The records of one read."""
        if len(offsets):
            self._firsts.append(offsets[0])
            self._before.append(self.total)
            self.total += len(offsets)

    def below(self, offset: int) -> int:
        """How many of them lie below."""
        at = bisect_left(self._firsts, offset) - 1
        if at < 0:
            return 0
        after = self._before[at + 1] if at + 1 < len(self._before) else self.total
        return min(self._before[at] + offset - self._firsts[at], after)
