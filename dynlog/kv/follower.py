"""A bucket's state in this process: it follows the log, and whoever wrote learns from it what came of it.

* **Everything is folded once, in the order of the log.**  What this process appends it folds itself as soon as the
  append is acknowledged, if nothing of others lies in between; it need not be read back.
* A write's outcome belongs to its *mark*, so it is found wherever in the log a retried append came to lie.
* When the log cannot be read the state stays, is called stale, and goes on by itself.  When its place in the log is
  gone it is rebuilt and every watcher is told.  When the bucket is gone, everybody is told which.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress

from dynlog.batch import Batch, Position
from dynlog.errors import (
    BucketNotFound,
    Closed,
    DeadlineExceeded,
    DynlogError,
    LogDiverged,
    OffsetTruncated,
    OutcomeUnknown,
    TopicNotFound,
)
from dynlog.holding import Changes
from dynlog.kv.fold import KvFold, Outcome
from dynlog.kv.opening import Opened, Opening, Progress
from dynlog.kv.own import own_batch
from dynlog.kv.pause import Pausing
from dynlog.kv.recent import Recent
from dynlog.kv.rows import Row
from dynlog.kv.settings import BucketSettings, bucket_of
from dynlog.live import PASSING
from dynlog.log import Log
from dynlog.record import Record
from dynlog.replay import DEDUPE_SECTION, STATE_SECTION, release_quietly
from dynlog.snapshot_writer import Picture
from dynlog.snapshots import Snapshots
from dynlog.tasks import ended
from dynlog.timing import Backoff, Clock, Deadline
from dynlog.topics import Appended, Topic

logger = logging.getLogger(__name__)
READ_WAIT_S = 20.0
QUIET_S = 0.005
"""So long after an append of this process nothing is read: what others write meanwhile its next append would meet, and
being woken for what it has just written itself would cost as much as the append."""
SLICE = 256
"""So many records are folded before the event loop has a turn: about a millisecond."""
Mine = tuple[int, int]  # (epoch, sequence) of a record of this process


class Follower:
    """The state of one bucket, up to date; `start` before anything else, `end` after everything."""

    def __init__(
        self,
        log: Log,
        topic: Topic,
        settings: BucketSettings,
        *,
        snapshots: Snapshots | None,
        clock: Clock,
        progress: Progress | None = None,
    ) -> None:
        self.bucket = bucket_of(topic)
        self.topic = topic
        self._log, self._clock = log, clock
        self._loop = asyncio.get_running_loop()
        self._holder = f"kv:{uuid.uuid4().hex[:12]}"
        self._opening = Opening(log, topic, settings.history, self._holder, snapshots=snapshots)
        self._progress = progress
        self.producer_id = f"kv-{uuid.uuid4().hex}"
        self.waiting: dict[Mine, asyncio.Future[Outcome]] = {}  # for what came of a record of this process
        self.listeners: list[Callable[[Sequence[tuple[str, Row]]], None]] = []  # called with changes; must not raise
        self.on_rebuilt: list[Callable[[str], None]] = []
        self.changes = Changes()
        self.restless = Changes()
        """As `changes`, but only while there are leases or times to live: who listens for those is not woken else."""
        self.pausing = Pausing()
        self.failure: DynlogError | None = None
        self.stale_since_ms: int | None = None
        self.error: DynlogError | None = None
        self.noted: Callable[[int, int], None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._changed: list[tuple[str, Row]] = []
        self._own_at = 0.0  # when this process last began or ended an append
        self._others = asyncio.Event()  # something of others is there to be read
        self._folding = False  # a batch that was read is being folded, with turns for others in between

    async def start(self) -> None:
        """Rebuilds the state and begins to follow; raises what `Opening.run` raises."""
        self._take_over(await self._opening.run(self._progress))
        self._following = asyncio.create_task(self._run(), name=f"dynlog-kv-{self.bucket}")
        holding = self._opening.keep_holding(lambda: self.offset)
        self._holding = asyncio.create_task(holding, name=f"dynlog-kv-{self.bucket}-beat")

    async def end(self) -> None:
        """Stops following; whoever waits for more gets Closed, for what came of a record OutcomeUnknown."""
        behind = asyncio.gather(*filter(None, (self._following, self._holding)), return_exceptions=True)
        behind.cancel()
        try:
            await ended(behind)
        finally:
            self.pausing.end()
            self._lose("the bucket was closed before that was read")
            self.fail(Closed(f"bucket {self.bucket!r} was closed"))
            await release_quietly(self._log, self.topic.name, self._holder)

    def _take_over(self, opened: Opened) -> None:
        self.fold: KvFold = opened.fold
        self.recent: Recent = opened.recent
        self.offset = opened.offset
        self.started_from = opened.started_from
        self.pausing.at = self.fold.pause  # of a compaction that is over, or was killed
        self._dedupe = opened.dedupe
        self._changed = self.fold.changed = []

    # For whoever asks

    @property
    def position(self) -> Position:
        """Where the log is read next."""
        return Position(self.topic.name, self.topic.incarnation, 0, self.offset)

    def check(self) -> None:
        """Raises why there is nothing more to come, if that is so."""
        if self.failure is not None:
            raise self.failure

    async def reached(self, offset: int, deadline: Deadline) -> None:
        """Returns once everything below ``offset`` is folded; raises DeadlineExceeded."""
        try:
            async with asyncio.timeout(deadline.remaining):
                while self.offset < offset:
                    self._others.set()
                    self.check()
                    await self.changes.beyond(self.changes.count)
        except TimeoutError:
            raise DeadlineExceeded(
                f"bucket {self.bucket!r} was followed to {self.offset} instead of {offset} in the time given"
                + (f"; last error: {self.error}" if self.error else "")
            ) from None

    async def picture(self) -> Picture:
        """The state now, for a snapshot; raises what `check` raises."""
        self.check()
        sections = {STATE_SECTION: self.fold.snapshot()}
        if self._dedupe is not None:
            sections[DEDUPE_SECTION] = self._dedupe.snapshot()
        return Picture(sections, self.fold.schema, {0: self.position})

    def marks(self) -> list[bytes]:
        """What is known of marks now, for a compaction; nothing where the engine checks them."""
        return [] if self._dedupe is None else list(self._dedupe.snapshot())

    async def hold(self) -> None:
        """Lets the log be truncated up to where the state stands."""
        await self._opening.hold(self.offset)

    # What comes

    def appending(self) -> None:
        """This process is about to append."""
        self._own_at = self._loop.time()

    def take_own(self, appended: Appended, records: Sequence[Record]) -> None:
        """Folds what this process has just appended, if it is next in the log; else it comes by the reader."""
        offsets = appended.offsets
        if offsets[0] != self.offset or appended.duplicates or self._folding or self.failure is not None:
            self._others.set()
            return
        if self._dedupe is not None:
            batch = self._dedupe.filter(own_batch(self.topic, appended, records))
            self._take(batch, 0, len(batch), self._mine(batch))
        else:
            fold, time_ms = self.fold, appended.log_time_ms
            for offset, record in zip(offsets, records, strict=True):
                outcome = fold.take(offset, time_ms, record.key, record.parts)  # type: ignore[arg-type]
                if record.mark is not None and record.mark.producer_id == self.producer_id:
                    self._resolve((record.mark.epoch, record.mark.sequence), outcome)
        self.offset = offsets[-1] + 1
        if appended.end_offset > self.offset:
            self._others.set()
        self.appending()
        self._tell()
        if self.noted is not None:
            self.noted(len(records), sum(len(part) for record in records for part in record.parts))

    def _mine(self, batch: Batch) -> dict[int, Mine]:
        mine: dict[int, Mine] = {}
        for run in batch.marks:
            if run.producer_id == self.producer_id:
                mine |= {run.start + i: (run.epoch, run.sequence + i) for i in range(run.length)}
        return mine

    def _take(self, batch: Batch, start: int, stop: int, mine: dict[int, Mine]) -> None:
        fold, keys, bodies = self.fold, batch.keys, batch.bodies
        for index in range(start, min(stop, len(batch))):
            offset = batch.offsets[index]
            if offset < fold.next:
                continue  # folded when it was appended
            outcome = fold.take(offset, batch.log_times[index], keys[index], bodies[index])
            if mine and index in mine:
                self._resolve(mine[index], outcome)
            self.offset = offset + 1

    def _resolve(self, mine: Mine, outcome: Outcome) -> None:
        future = self.waiting.pop(mine, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _tell(self) -> None:
        if self._changed:
            self.recent.add(self._changed)
            for listener in self.listeners:
                listener(self._changed)
            self._changed.clear()
        if self.fold.pause != self.pausing.at:
            self.pausing.hear(self.fold.pause)
        self.changes.notify()
        if self.fold.leases or self.fold.has_times:
            self.restless.notify()

    # The tasks behind it

    async def _run(self) -> None:
        pauses = iter(Backoff())
        met: DynlogError | None = None
        while self.failure is None:
            trouble, met = met, None
            try:
                if isinstance(trouble, LogDiverged | TopicNotFound):
                    await self._judge(trouble)
                else:
                    await (self._follow_once() if trouble is None else self._rebuild(str(trouble)))
                    pauses = iter(Backoff())
                    continue
            except (OffsetTruncated, LogDiverged, TopicNotFound) as error:
                met = error
                continue
            except DynlogError as error:
                self._take_note(error)
            except Exception as error:  # a fold must not raise; if it does, nobody is to wait for ever because of it
                logger.exception("bucket %s: following failed", self.bucket)
                self.fail(DynlogError(f"following bucket {self.bucket!r} failed: {error!r}"))
            if self.failure is None:
                await asyncio.sleep(next(pauses))

    async def _quiet(self) -> None:
        """Returns once this process has not appended for a moment, or something of others is there."""
        while (left := self._own_at + QUIET_S - self._loop.time()) > 0 and not self._others.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._others.wait()
        self._others.clear()

    async def _follow_once(self) -> None:
        await self._quiet()
        batch = await self._log.read(self.position, wait=READ_WAIT_S)
        if self.stale_since_ms is not None:
            logger.warning("bucket %s: following again", self.bucket)
        self.stale_since_ms = self.error = None
        seen = self.offset
        if batch.next_offset <= seen:
            return
        records = size = 0
        self._folding = True
        try:
            for start in range(0, len(batch), SLICE):
                if start:
                    await asyncio.sleep(0)
                # Marks go in step with the state: whoever pictures both in between must not find a mark of a record
                # that is not folded yet, or the restored state would take that record for a repeat.
                fresh = batch.slice(start, start + SLICE)
                fresh = fresh if self._dedupe is None else self._dedupe.filter(fresh)
                self._take(fresh, 0, len(fresh), self._mine(fresh))
                self._tell()
                new = range(bisect_left(fresh.offsets, seen), len(fresh))
                records, size = records + len(new), size + sum(len(part) for i in new for part in fresh.bodies[i])
        finally:
            self._folding = False
        if batch.next_offset > self.offset:
            self.offset = batch.next_offset
            self._tell()
        if self.noted is not None:
            self.noted(records, size)

    async def _rebuild(self, reason: str) -> None:
        logger.warning("bucket %s: %s; rebuilding", self.bucket, reason)
        opened = await self._opening.run()
        self._take_over(opened)
        self._lose(reason)  # whether it won lay in what is truncated now
        for tell in self.on_rebuilt:
            tell(reason)
        self._tell()

    def _lose(self, reason: str) -> None:
        self._fail_waiting(OutcomeUnknown(f"what came of it is lost: {reason}", topic=self.topic.name))

    def _fail_waiting(self, error: DynlogError) -> None:
        waiting, self.waiting = self.waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more

    async def _judge(self, error: DynlogError) -> None:
        """What it means that the topic is not what it was."""
        try:
            now = await self._log.topic(self.topic.name)
        except TopicNotFound:
            self.fail(BucketNotFound("it was deleted while it was in use", bucket=self.bucket))
        except DynlogError as other:
            self._take_note(other)
        else:
            if now.incarnation != self.topic.incarnation:
                self.fail(BucketNotFound("it was deleted and created anew: open it again", bucket=self.bucket))
            else:  # the log lost its tail, or was restored from a backup
                self.fail(error)

    def fail(self, error: DynlogError) -> None:
        """There is nothing more to come: everybody is told why."""
        if self.failure is not None:
            return
        self.failure = error
        if self._holding is not None:
            self._holding.cancel()  # another topic may have the name by now
        self._fail_waiting(error)
        self.changes.notify()
        self.restless.notify()
        for tell in self.on_rebuilt:
            tell(str(error))

    def _take_note(self, error: DynlogError) -> None:
        """Goes on with the state as it is if the error may pass; else nobody is to wait for ever."""
        if not isinstance(error, PASSING):
            self.fail(error)
            return
        self.error = error
        if self.stale_since_ms is None:
            self.stale_since_ms = self._clock.time_ms()
            logger.warning("bucket %s: stale: %s", self.bucket, error)
