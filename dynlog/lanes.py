"""The lanes of a consumer, kept as its holding says: begun, handed over, lost, and committed by the low watermark.

* **A partition that stays is not touched** when others come or go.
* **A partition is released after its last commit**, and that comes after what was in hands, at most ``drain_s`` later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from dynlog.batch import Position
from dynlog.errors import DeadlineExceeded, LogUnavailable, OutcomeUnknown
from dynlog.holding import Holding
from dynlog.intake import ConsumerSettings, Intake
from dynlog.lane import Lane, LaneState, Ready, Room
from dynlog.timing import Backoff
from dynlog.topics import Topic

logger = logging.getLogger(__name__)
COMMIT_EVERY_S = 0.05
LOOK_EVERY_S = 1.0
"""How often it is looked whether a watermark moved although nothing was acknowledged: over holes and repeats."""
PASSING = (LogUnavailable, DeadlineExceeded, OutcomeUnknown)
"""What may pass by itself."""


class Lanes:
    """Runs the holding, one lane per partition, and the commits; ``failed`` is told why it ended, if it did."""

    def __init__(
        self, topic: Topic, holding: Holding, settings: ConsumerSettings, room: Room, ready: Ready, intake: Intake
    ) -> None:
        self._topic, self._holding, self._settings = topic, holding, settings
        self._room, self._ready, self._intake = room, ready, intake
        self._lanes: dict[int, Lane] = {}
        self._leaving: set[int] = set()
        self._dirty = asyncio.Event()
        self._taking = True
        self._tasks: asyncio.TaskGroup | None = None

    def __getitem__(self, partition: int) -> Lane:
        return self._lanes[partition]

    @property
    def all(self) -> list[Lane]:
        """Those of now."""
        return list(self._lanes.values())

    @property
    def open(self) -> frozenset[int]:
        """The partitions that are read now."""
        return frozenset(p for p, lane in self._lanes.items() if lane.state is LaneState.OPEN)

    def drain(self) -> None:
        """Begins nothing more, and hands out nothing more."""
        self._taking = False
        for lane in self.all:
            lane.drain()

    def advanced(self) -> None:
        """A watermark moved: to be committed soon."""
        self._dirty.set()

    def lose(self, lane: Lane) -> None:
        """What is outstanding there is void."""
        self._intake.counts.lost += len(lane.live)
        lane.lose()
        if self._lanes.get(lane.partition) is lane:
            del self._lanes[lane.partition]

    async def run(self, failed: Callable[[BaseException], None]) -> None:
        """Until it is cancelled, or something fails that does not pass."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._holding.run(), name="dynlog-consumer-holding")
                self._tasks.create_task(self._balance(), name="dynlog-consumer-balance")
                self._tasks.create_task(self._commits(), name="dynlog-consumer-commits")
        except BaseExceptionGroup as failures:
            failed(first_of(failures))

    async def _balance(self) -> None:
        """Begins what this consumer may read, and lets go of what it may not."""
        while True:
            seen = self._holding.changes.count
            epoch, mine = self._holding.epoch, self._holding.mine
            for lane in self.all:
                if lane.epoch != epoch or lane.partition not in mine:
                    self.lose(lane)
            for partition in self._holding.leaving - self._leaving:
                assert self._tasks is not None
                self._leaving.add(partition)
                self._tasks.create_task(self._hand_over(partition), name=f"dynlog-consumer-leave-{partition}")
            begun = self._holding.startable - self._lanes.keys() - self._leaving
            if begun and self._taking:
                try:
                    starts = await self._holding.starts(begun)
                except PASSING:
                    await asyncio.sleep(COMMIT_EVERY_S)
                    continue
                if self._holding.epoch != epoch:
                    continue
                for partition in begun & self._holding.startable if self._taking else ():
                    self._begin(partition, starts[partition])
            await self._holding.changes.beyond(seen)

    def _begin(self, partition: int, offset: int) -> None:
        start = Position(self._topic.name, self._topic.incarnation, partition, offset)
        lane = self._lanes[partition] = Lane(start, self._holding.epoch, self._room, self._ready)
        assert self._tasks is not None
        lane.pump = self._tasks.create_task(self._intake.fill(lane), name=f"dynlog-consumer-read-{partition}")

    async def _hand_over(self, partition: int) -> None:
        """Finishes what is in hands, commits, and releases the partition."""
        try:
            lane = self._lanes.get(partition)
            if lane is not None:
                lane.drain()
                await lane.quiet(self._settings.drain_s)
                with suppress(*PASSING):  # what is not committed is delivered again
                    await self.commit([lane])
                self.lose(lane)
            for pause in Backoff():
                if partition not in self._holding.leaving:
                    return
                try:
                    await self._holding.release(partition)
                except PASSING:
                    await asyncio.sleep(pause)
        finally:
            self._leaving.discard(partition)
            self._holding.changes.notify()

    async def _commits(self) -> None:
        pauses = iter(Backoff())
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.commit(self.all)
            except PASSING as error:
                logger.warning("committing %s: %s; trying again", self._topic.name, error)
                self._dirty.set()
                await asyncio.sleep(next(pauses))
            else:
                pauses = iter(Backoff())
            await asyncio.sleep(COMMIT_EVERY_S)

    async def commit(self, lanes: list[Lane]) -> None:
        """Stores how far the lanes are done; what is not this consumer's any more is left out."""
        due = [lane for lane in lanes if lane.state is not LaneState.LOST and lane.watermark.position > lane.committed]
        for epoch in {lane.epoch for lane in due}:
            positions = {lane.partition: lane.watermark.position for lane in due if lane.epoch == epoch}
            kept = await self._holding.commit(epoch, positions)
            for lane in due:
                if lane.epoch == epoch and lane.partition in kept:
                    lane.committed = max(lane.committed, positions[lane.partition])


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group, however deep."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
