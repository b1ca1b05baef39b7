"""A live projection: rebuilt from snapshot and log, then following it, writing snapshots, and never in the way.

When the log cannot be read it keeps the state that it has, says since when it is stale, and resumes by itself.  When
its place in the log is gone (it was expelled and truncated, or the topic was created anew) it rebuilds beside the old
state and swaps.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Generic, Self

from dynlog.batch import Batch, Position
from dynlog.errors import (
    ConfigurationError,
    DeadlineExceeded,
    DynlogError,
    LogDiverged,
    LogUnavailable,
    ObjectStoreUnavailable,
    OffsetTruncated,
)
from dynlog.live_status import LiveStatus, Phase
from dynlog.log import Log
from dynlog.manifests import Manifest
from dynlog.objects import ObjectStore
from dynlog.replay import (
    DEDUPE_SECTION,
    HEARTBEAT_S,
    STATE_SECTION,
    CooperativeFold,
    P,
    RebuildReport,
    Rebuilt,
    Replayer,
    ReplayProgress,
    release_quietly,
)
from dynlog.snapshot_writer import Picture, SnapshotWriter
from dynlog.snapshots import SnapshotPolicy, Snapshots
from dynlog.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline
from dynlog.topics import Holder, HolderKind

logger = logging.getLogger(__name__)
PICTURE_S = 60.0
PASSING = (LogUnavailable, DeadlineExceeded, ObjectStoreUnavailable)
"""Errors that may pass by themselves."""


class _FoldFailed(Exception):
    """Whatever a fold raised: never to be taken for an error of the log, after which one reads on."""


class LiveProjection(Generic[P]):
    """Keeps one projection of one topic up to date; get it by `open`, read it through `state`."""

    def __init__(
        self,
        log: Log,
        topic: str,
        make: Callable[[], P],
        name: str,
        *,
        objects: ObjectStore | None,
        policy: SnapshotPolicy,
        clock: Clock,
        progress: ReplayProgress | None,
    ) -> None:
        self._log, self._topic, self._clock = log, topic, clock
        snapshots = Snapshots(log, topic, objects, name, clock=clock) if objects is not None else None
        self._writer = SnapshotWriter(snapshots, policy, self._picture, clock) if snapshots is not None else None
        self._replayer = Replayer(
            log, topic, make, snapshots=snapshots, holder=f"follower:{name}:{uuid.uuid4().hex[:12]}"
        )
        self._progress = progress
        self.state: P = make()
        self._current: Rebuilt[P] | None = None
        self._applied: dict[int, Position] = {}
        self._folding = asyncio.Lock()  # held while a batch is half applied
        self._torn = False  # a batch was half applied and that is how it stays, until the state is rebuilt
        self._ready = asyncio.Event()
        self._moved = asyncio.Event()  # another one after each move
        self._phase = Phase.REBUILDING
        self._stale_since: int | None = None
        self._error: DynlogError | None = None
        self._report: RebuildReport | None = None
        self._records = self._rebuilds = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        log: Log,
        topic: str,
        make: Callable[[], P],
        name: str,
        *,
        objects: ObjectStore | None = None,
        policy: SnapshotPolicy | None = None,
        clock: Clock = SYSTEM_CLOCK,
        progress: ReplayProgress | None = None,
    ) -> AsyncIterator[Self]:
        """Starts rebuilding in the background and ends everything at the end of the block.

        Raises TopicNotFound, and ConfigurationError if the topic's retention is shorter than the snapshot cadence.
        """
        policy = policy or SnapshotPolicy()
        info = await log.topic(topic)
        if objects is not None:
            policy.check(info.retention)
        live = cls(log, topic, make, name, objects=objects, policy=policy, clock=clock, progress=progress)
        tasks = [asyncio.create_task(live._run()), asyncio.create_task(live._heartbeats())]
        if live._writer is not None:
            tasks.append(asyncio.create_task(live._write_snapshots(live._writer)))
        try:
            yield live
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await live._end()

    async def ready(self, timeout: float = 600.0) -> None:
        """Returns once the replay has reached the end that it saw when it began.

        Raises what stands in the way if it cannot pass by itself (StateUnrecoverable, LogCorrupt, ...), and
        DeadlineExceeded, naming the last error, after ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"topic {self._topic!r} was not replayed within {timeout} s"
                + (f"; last error: {self._error}" if self._error else "")
            ) from None
        if self._report is None and self._error is not None:
            raise self._error

    async def caught_up(self, timeout: float = 60.0) -> None:
        """Returns once everything that the log holds *now* is in the state; raises DeadlineExceeded.

        For whoever must read what was written before: append, then ``caught_up``, then ask.
        """
        deadline = Deadline(timeout)
        topic = await self._log.topic(self._topic, timeout=deadline.remaining)
        ends = {s.partition: s.end for s in await self._log.partitions(self._topic, timeout=deadline.remaining)}

        def behind(partition: int, end: int) -> bool:
            applied = self._applied.get(partition)
            return applied is None or applied.incarnation != topic.incarnation or applied.offset < end

        try:
            async with asyncio.timeout(deadline.remaining):
                while any(behind(partition, end) for partition, end in ends.items()):
                    await self._moved.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"topic {self._topic!r} was not followed to {ends} within {timeout} s") from None

    def status(self) -> LiveStatus:
        """How it stands now."""
        reader = self._current.reader if self._current is not None else None
        return LiveStatus(
            phase=self._phase,
            ready=self._report is not None,
            stale_since_ms=self._stale_since,
            lag=reader.lag if reader is not None else 0,
            positions={partition: position.offset for partition, position in sorted(self._applied.items())},
            records=self._records,
            rebuilds=self._rebuilds,
            rebuild=self._report,
            snapshots=self._writer.written if self._writer is not None else 0,
            snapshot_failures=self._writer.failures if self._writer is not None else 0,
            last_snapshot_ms=self._last_snapshot_ms(),
            last_error=str(self._error) if self._error is not None else None,
        )

    async def snapshot(self) -> Manifest:
        """Writes a snapshot now and collects old ones; raises ConfigurationError without an object store."""
        if self._writer is None:
            raise ConfigurationError("snapshots need an object store: give objects= (on the command line --objects)")
        await self.ready()
        return await self._writer.write()

    async def _picture(self) -> Picture:
        try:
            async with asyncio.timeout(PICTURE_S):
                while True:
                    async with self._folding:
                        if not self._torn:
                            return self._take_picture()
                        moved = self._moved
                    await moved.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"no whole state of topic {self._topic!r} to snapshot within {PICTURE_S:g} s; last error: {self._error}"
            ) from None

    def _take_picture(self) -> Picture:
        sections: dict[int, Iterator[bytes]] = {STATE_SECTION: self.state.snapshot()}
        if self._current is not None and self._current.dedupe is not None:
            sections[DEDUPE_SECTION] = self._current.dedupe.snapshot()
        return Picture(sections, self.state.schema, dict(self._applied))

    def _last_snapshot_ms(self) -> int | None:
        if self._writer is not None and self._writer.last_ms is not None:
            return self._writer.last_ms
        return self._report.snapshot_ms if self._report is not None else None

    # The tasks behind it

    async def _run(self) -> None:
        pauses = iter(Backoff())
        while True:
            try:
                if self._current is None:
                    await self._rebuild()
                pauses = iter(Backoff())
                await self._follow()
            except (OffsetTruncated, LogDiverged) as error:
                logger.warning("topic %s: %s; rebuilding", self._topic, error)
                self._note(error)
                await self._drop_reader()
            except DynlogError as error:
                self._note(error)
                if self._report is None and not isinstance(error, PASSING):
                    self._ready.set()  # whoever waits is told why
            except Exception as error:  # a fold must not raise; if it does, its half-applied state is thrown away
                logger.exception("topic %s: the projection failed; rebuilding", self._topic)
                cause = error.__cause__ or error
                self._note(DynlogError(f"the projection of topic {self._topic!r} failed: {cause!r}"))
                self._ready.set()
                await self._drop_reader()
            await asyncio.sleep(next(pauses))

    async def _rebuild(self) -> None:
        if self._report is None:
            self._phase = Phase.REBUILDING
        rebuilt = await self._replayer.rebuild(self._progress)
        async with self._folding:
            self.state, self._current, self._torn = rebuilt.state, rebuilt, False
            self._applied = dict(rebuilt.reader.positions)
        self._wake()
        self._report = rebuilt.report
        self._records += rebuilt.report.records
        self._rebuilds += 1
        if self._writer is not None:
            self._writer.note(rebuilt.report.records, 0)  # replayed by hand: the next start should not have to
        self._fresh()
        self._ready.set()

    async def _follow(self) -> None:
        assert self._current is not None
        current, fold = self._current, CooperativeFold()

        def applied(piece: Batch) -> None:
            self._applied[piece.partition] = piece.next_position
            self._wake()
            self._records += len(piece)

        while True:
            batch = await current.reader.next(wait=5.0)
            self._fresh()
            if batch is None:
                continue
            async with self._folding:
                self._torn = True
                try:
                    await fold.apply(current.state, batch, applied)
                except Exception as error:
                    raise _FoldFailed from error
                self._torn = False
            if self._writer is not None:
                self._writer.note(len(batch), sum(len(part) for body in batch.bodies for part in body))

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _heartbeats(self) -> None:
        """Keeps the log from being truncated under the follower; it moves with what was applied."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._current is None:
                continue
            offsets = {partition: position.offset for partition, position in self._applied.items()}
            incarnation = next((position.incarnation for position in self._applied.values()), None)
            holder = Holder(self._replayer.holder, HolderKind.EPHEMERAL, offsets)
            try:
                await self._log.hold(self._topic, holder, incarnation=incarnation)
            except DynlogError as error:  # the follower itself meets the same trouble and deals with it
                logger.warning("topic %s: no heartbeat: %s", self._topic, error)

    async def _write_snapshots(self, writer: SnapshotWriter) -> None:
        while self._report is None:
            await self._moved.wait()
        await writer.run()

    def _note(self, error: DynlogError) -> None:
        self._error = error
        if self._report is not None and self._stale_since is None:
            self._stale_since = self._clock.time_ms()
            self._phase = Phase.STALE
            logger.warning("topic %s: stale: %s", self._topic, error)

    def _fresh(self) -> None:
        if self._phase is Phase.STALE:
            logger.warning("topic %s: following again", self._topic)
        self._phase, self._stale_since, self._error = Phase.FOLLOWING, None, None

    async def _drop_reader(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            await current.reader.close()

    async def _end(self) -> None:
        await self._drop_reader()
        self._phase = Phase.CLOSED
        await release_quietly(self._log, self._topic, self._replayer.holder)
