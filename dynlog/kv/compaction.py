"""Compacting a bucket: the truth is written anew at the end, range by range, then what lies below is cut off.

* **Nothing of the state changes**: revisions, creation, history, log times, leases and their heartbeats stay; whoever
  folds the bucket from its beginning, and whoever begins where the compaction began, know the same.
* Each range is appended with ``expect=`` the place that it is true of: whoever writes meanwhile is never overruled.  A
  range that lost asks whoever writes for a moment (`dynlog.kv.pause`), so a compaction gets through beside any load.
* **Truncation never passes a holder**: a reader that is behind is told with OffsetTruncated, not robbed.
* A compaction that is killed, or two at once, do no harm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass

from dynlog.errors import (
    BucketNotFound,
    ConfigurationError,
    DeadlineExceeded,
    OffsetConflict,
    OffsetTruncated,
    TopicNotFound,
)
from dynlog.kv.follower import Follower
from dynlog.kv.pictures import FIRST, Place, behind, next_pictures
from dynlog.kv.records import Barrier, Pause, to_record
from dynlog.kv.settings import OVERHEAD_BYTES
from dynlog.kv.writer import Writer
from dynlog.log import Log
from dynlog.record import Record
from dynlog.timing import Deadline
from dynlog.topics import Appended, Truncation

PICTURE_BYTES = 512 << 10
LEAST_BYTES = 16 << 10
"""A picture that lost to a writer is tried again at half the size, down to this: it is sooner there."""
APPEND_S = 15.0
"""So long at most do this process' writers wait for one picture."""
TRIES = 4
"""So often in a row does a range ask for a pause; then writers have `REST_S` for themselves."""
REST_S = 0.1


@dataclass(frozen=True, slots=True)
class CompactionPolicy:
    """A bucket is compacted once at least ``min_records`` came since the last time and they are more than ``dirty`` of
    all that a reader has to fold.  It is looked at every ``every_s`` seconds."""

    min_records: int = 10_000
    dirty: float = 0.5
    every_s: float = 10.0

    def __post_init__(self) -> None:
        if self.min_records < 1 or not 0 < self.dirty < 1 or self.every_s <= 0:
            raise ConfigurationError(f"{self}: at least one record, a ratio between 0 and 1, a time above zero")


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did: ``pictures`` were appended, ``conflicts`` were lost to writers, then it truncated."""

    start: int
    pictures: int
    bytes: int
    conflicts: int
    truncation: Truncation


def dirtiness(follower: Follower, earliest: int) -> tuple[int, float]:
    """(records since the last compaction, their share of all that a reader would fold)."""
    fold = follower.fold
    since = max(follower.offset - max(earliest, fold.dirty_from), 0)
    needed = fold.rows + len(fold.leases)
    return since, since / (since + needed) if since else 0.0


class Compactor:
    """Compacts one bucket."""

    def __init__(self, log: Log, follower: Follower, writer: Writer) -> None:
        self._log, self._follower, self._writer = log, follower, writer
        self._topic = follower.topic.name
        self._one_at_a_time = asyncio.Lock()
        self._seen: Mapping[int, tuple[int, str]] = {}
        self._most = min(PICTURE_BYTES, (log.capabilities.max_batch_bytes - OVERHEAD_BYTES))

    async def run(self, timeout: float) -> Compacted:
        """Compacts now; raises DeadlineExceeded if others write so much that it gets nowhere, BucketNotFound."""
        deadline = Deadline(timeout)
        try:
            async with asyncio.timeout(timeout), self._one_at_a_time:
                return await self._run(deadline)
        except TimeoutError:
            raise DeadlineExceeded(f"{self._topic} was not compacted within {timeout:g} s: compact it again") from None
        except TopicNotFound:
            raise BucketNotFound("it was deleted while it was in use", bucket=self._follower.bucket) from None

    async def _run(self, deadline: Deadline) -> Compacted:
        start: int = (await self._writer.say(Barrier(), deadline.remaining)).offset
        place: Place | None = FIRST
        most, lost = self._most, 0
        pictures = size = conflicts = 0
        while place is not None:
            deadline.check(f"compacting {self._topic}")
            if lost == TRIES:
                lost = 0
                self._follower.pausing.end()
                await asyncio.sleep(REST_S)
            async with self._writer.turn():
                try:
                    behind_it, count, written = await self._write_range(start, place, most, deadline)
                except OffsetConflict:
                    conflicts, lost = conflicts + 1, lost + 1
                    most = max(most // 2, LEAST_BYTES)
                    await self._ask_for_a_pause(start, deadline)
                    continue
            place, most, lost = behind_it, min(2 * most, self._most), 0
            pictures, size = pictures + count, size + written
        # What everybody's fold does not count as complete nobody could begin from.
        before = min(start, self._follower.fold.compacted)
        return Compacted(start, pictures, size, conflicts, await self.truncate(before, deadline.remaining))

    async def _write_range(
        self, start: int, place: Place, most: int, deadline: Deadline
    ) -> tuple[Place | None, int, int]:
        follower = self._follower
        found, expect = next_pictures(follower.fold, start, place, most, follower.marks()), follower.offset
        for picture in found:
            record = to_record(picture)
            follower.appending()
            appended = await self._append(record, deadline, expect)
            follower.take_own(appended, [record])
            # The pictures of one range are neighbours, though more than that may be folded by now.
            expect = appended.offsets[0] + 1
            await follower.reached(expect, deadline)
        return behind(found[-1]), len(found), sum(len(picture.body) for picture in found)

    async def _ask_for_a_pause(self, start: int, deadline: Deadline) -> None:
        """Brings us behind whatever came between, and behind holes, and the others to let the next try be next."""
        record = to_record(Pause(start))
        self._follower.appending()
        appended = await self._append(record, deadline)
        self._follower.take_own(appended, [record])
        await self._follower.reached(appended.offsets[0] + 1, deadline)

    async def _append(self, record: Record, deadline: Deadline, expect: int | None = None) -> Appended:
        timeout = min(APPEND_S, deadline.remaining)
        return await self._log.append(
            self._topic, 0, [record], expect=expect, timeout=timeout, incarnation=self._follower.topic.incarnation
        )

    async def truncate(self, before: int, timeout: float) -> Truncation:
        """Cuts off what lies below the start of the newest compaction, as far as holders let it."""
        await self._follower.hold()
        incarnation = self._follower.topic.incarnation  # another topic of that name is not ours to cut
        return await self._log.truncate(self._topic, 0, before, timeout=timeout, incarnation=incarnation)

    async def tidy(self, policy: CompactionPolicy, timeout: float) -> Compacted | None:
        """Compacts if it is worth it, and cuts off what a holder had kept the last time."""
        state = (await self._log.partitions(self._topic))[0]
        since, share = dirtiness(self._follower, state.earliest)
        # Of several processes that see the same, mostly one begins: the others see what it has written, and leave the
        # bucket to it as long as it gets on.
        seen, self._seen = self._seen, self._follower.fold.passes()
        if self._seen and self._seen != seen:
            return None
        if since >= policy.min_records * random.uniform(1.0, 1.2) and share > policy.dirty:
            return await self.run(timeout)
        compacted = self._follower.fold.compacted
        if compacted > state.earliest:
            try:
                await self.truncate(compacted, timeout)
            except OffsetTruncated:
                return None
        return None
