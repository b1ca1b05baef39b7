"""A consumer: every record of its partitions is handed to its user, in order per key, and comes again until it is done.

Three ways to consume, as Dynamo's queue has them: only publish (`Producer`), share a topic among the members of a group
(`Consumer.open`), or see everything (`Consumer.broadcast`).

* **What was not acknowledged is delivered again**, after a crash from the last commit on; the commit is the low
  watermark, so no record is ever passed.  An outside effect may therefore repeat, under the same `Delivery.id`.
* **A failing record blocks its key and nothing else**, and is parked as a dead letter in the end.
* **Members that keep their partitions are not paused** when others come, go or die.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Self

from dynlog.budget import Budget
from dynlog.dead_letters import Story, error_text, park
from dynlog.delivery import DeliveryPolicy
from dynlog.effects import Cause, append_effects
from dynlog.errors import Closed, CommitFenced, ConfigurationError, DynlogError
from dynlog.holding import Follower, Holding, Sole
from dynlog.intake import ConsumerSettings, Counts, Guarantee, Intake
from dynlog.lane import Lane, Ready, Room
from dynlog.lanes import PASSING, Lanes, first_of
from dynlog.log import Log
from dynlog.membership import Membership
from dynlog.received import Delivery, DeliveryState
from dynlog.timing import Backoff
from dynlog.topics import Topic, check_name

logger = logging.getLogger(__name__)
HEALTH_S = 0.05
CLOSING_S = 10.0
DEFAULTS = ConsumerSettings()

Handler = Callable[[Delivery], Awaitable[object]]


class _State(Enum):
    OPEN = "open"
    STOPPING = "stopping"
    FAILED = "failed"
    CLOSED = "closed"


class Consumer:
    """Consumes one topic; made by `Consumer.open` and `Consumer.broadcast`.

    Iterate over it and `Delivery.ack` each, or give `run` a handler.  Raises, from `next`, the error that ended it:
    OffsetTruncated, LogDiverged, CommitFenced (a successor of the same broadcast name), and what else does not pass.
    """

    def __init__(self, log: Log, topic: Topic, name: str | None, holding: Holding, settings: ConsumerSettings) -> None:
        self._log, self._topic, self._name = log, topic, name
        self._holding, self._settings = holding, settings
        self._room = Room(Budget(settings.max_in_flight), Budget(settings.max_in_flight_bytes))
        self._ready = Ready()
        self._intake = Intake(log, topic, name, settings, self._room, self)
        self._lanes = Lanes(topic, holding, settings, self._room, self._ready, self._intake)
        self._state = _State.OPEN
        self._failure: BaseException | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, log: Log, topic: str, *, group: str, settings: ConsumerSettings = DEFAULTS
    ) -> AsyncIterator[Self]:
        """A member of a group: the group's members share the partitions, and each record is one member's.

        Raises TopicNotFound, ConfigurationError.
        """
        check_name("group", group)
        info = await log.topic(topic)
        holding = Membership(log, info, group, settings.start, settings.timing)
        async with cls(log, info, group, holding, settings)._running() as consumer:
            yield consumer

    @classmethod
    @asynccontextmanager
    async def broadcast(
        cls, log: Log, topic: str, *, name: str | None = None, settings: ConsumerSettings = DEFAULTS
    ) -> AsyncIterator[Self]:
        """A consumer that sees everything, whoever else consumes.

        With a name it remembers its place, and opening the name again fences the older one; without one it begins at
        ``settings.start`` each time and keeps records from truncation only while it is there.
        """
        if name is None and settings.guarantee is Guarantee.EXACTLY_ONCE:
            raise ConfigurationError("effects that are to happen once need a name under which they happen: give one")
        info = await log.topic(topic)
        holding: Holding = (
            Follower(log, info, settings.start)
            if name is None
            else Sole(log, info, check_name("group", name), settings.start)
        )
        async with cls(log, info, name, holding, settings)._running() as consumer:
            yield consumer

    @property
    def counts(self) -> Counts:
        """What it did and saw."""
        return self._intake.counts

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that it reads now."""
        return self._lanes.open

    @property
    def in_flight(self) -> int:
        """Records that were read and are not done."""
        return self._room.records.used

    # Pull

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        delivery = await self.next()
        if delivery is None:
            raise StopAsyncIteration
        return delivery

    async def next(self, wait: float | None = None) -> Delivery | None:
        """The next delivery, or None after ``wait`` seconds or after `stop`; a cancelled call loses nothing."""
        until = None if wait is None else time.monotonic() + wait
        while True:
            self._check()
            if self._state is not _State.OPEN:
                return None
            healthy = self._holding.healthy
            delivery = self._ready.pop() if healthy else None
            if delivery is not None:
                lane = self._lanes[delivery.partition]
                lane.hand(delivery)
                if self._settings.guarantee is Guarantee.AT_MOST_ONCE and not await self._commit_first(lane, delivery):
                    continue  # the partition was lost meanwhile
                self.counts.handed += 1
                return delivery
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return None
            await self._ready.wait(left if healthy else min(HEALTH_S, left or HEALTH_S))

    async def _commit_first(self, lane: Lane, delivery: Delivery) -> bool:
        """Whether the commit that passes the delivery went through."""
        position = delivery.offset + 1
        try:
            for pause in Backoff():
                try:
                    kept = await self._holding.commit(lane.epoch, {lane.partition: position})
                except PASSING:
                    await asyncio.sleep(pause)
                    if delivery.settled:
                        return False
                    continue
                lane.committed = max(lane.committed, position)
                return lane.partition in kept and not delivery.settled
        except asyncio.CancelledError:
            lane.take_back(delivery)  # nobody has seen it
            raise
        raise AssertionError("a backoff never ends")

    # Handlers

    async def run(self, handler: Handler, *, concurrency: int = 1) -> None:
        """Hands every record to the handler, ``concurrency`` at a time, until `stop` or cancellation.

        A handler that returns has acknowledged, one that raises has rejected; it may do either itself.  A handler at
        work on a record whose partition is lost is cancelled.
        """
        if concurrency < 1:
            raise ConfigurationError(f"concurrency={concurrency}: nobody would handle anything; give at least 1")
        try:
            async with asyncio.TaskGroup() as workers:
                for number in range(concurrency):
                    workers.create_task(self._work(handler), name=f"dynlog-consumer-{number}")
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None

    async def _work(self, handler: Handler) -> None:
        async for delivery in self:
            await self._handle(delivery, handler)

    async def _handle(self, delivery: Delivery, handler: Handler) -> None:
        with suppress(CommitFenced):  # counted where the partition was lost
            try:
                async with asyncio.timeout(None) as scope:
                    with delivery.cancelling(scope):
                        await handler(delivery)
                        if not delivery.settled:
                            await delivery.ack()
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _cancelled():
                    raise
                if not delivery.settled:
                    await delivery.nack(error=error)

    async def stop(self) -> None:
        """Hands out nothing more, and waits until what is in hands is settled, at most ``settings.drain_s``."""
        if self._state is _State.OPEN:
            self._state = _State.STOPPING
        self._ready.wake()
        self._lanes.drain()
        deadline = time.monotonic() + self._settings.drain_s
        for lane in self._lanes.all:
            if not await lane.quiet(max(deadline - time.monotonic(), 0.0)):
                self._lanes.lose(lane)

    async def commit(self) -> None:
        """Stores durably how far everything is done; otherwise that happens by itself, many times a second."""
        await self._lanes.commit(self._lanes.all)

    # What becomes of a delivery (`Settler`)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Its effects, then it is done."""
        lane = self._lanes[delivery.partition]
        if delivery.effects:
            once = self._settings.guarantee is Guarantee.EXACTLY_ONCE
            await append_effects(self._log, self._cause(delivery), delivery.effects, DeliveryPolicy(), once=once)
        if delivery.state is not DeliveryState.HANDED:
            raise CommitFenced("the partition was lost meanwhile", topic=self._topic.name, partition=lane.partition)
        lane.finish(delivery)
        self.counts.done += 1
        self._lanes.advanced()

    async def reject(self, delivery: Delivery, delay: float | None, error: BaseException | None) -> None:
        """Again later, or parked."""
        lane, retry = self._lanes[delivery.partition], self._settings.retry
        delivery.first_failed_ms = delivery.first_failed_ms or time.time_ns() // 1_000_000
        once = self._settings.guarantee is Guarantee.AT_MOST_ONCE
        if delivery.attempt < retry.max_attempts and not once:
            self.counts.retried += 1
            lane.again(delivery, retry.pause(delivery.attempt) if delay is None else delay)
            return
        parked = await self._park(delivery, error, patient=once)
        if delivery.state is not DeliveryState.HANDED:
            return
        if not parked and not once:
            lane.again(delivery, retry.most_s)
            return
        lane.finish(delivery)
        self.counts.parked += parked
        self._lanes.advanced()

    async def _park(self, delivery: Delivery, error: BaseException | None, *, patient: bool) -> bool:
        """Whether it is parked; ``patient`` ones wait for a log that is away: they may not be handed out again."""
        story = self._story(delivery, error)
        for pause in Backoff():
            try:
                await park(self._log, self._topic, delivery.record, story)
            except DynlogError as failure:
                logger.warning("%s cannot be parked: %s", delivery.id, failure)
                if not patient or not isinstance(failure, PASSING):
                    return False
            else:
                return True
            await asyncio.sleep(pause)
            if delivery.state is not DeliveryState.HANDED:
                return False
        raise AssertionError("a backoff never ends")

    def _cause(self, delivery: Delivery) -> Cause:
        return Cause(
            self._name or "", delivery.incarnation, delivery.partition, delivery.offset, delivery.record.key
        )  # fmt: skip

    def _story(self, delivery: Delivery, error: BaseException | None) -> Story:
        return Story(
            self._name or "", delivery.topic, delivery.incarnation, delivery.partition, delivery.offset,
            delivery.attempt, error_text(error), delivery.first_failed_ms, time.time_ns() // 1_000_000,
        )  # fmt: skip

    # The background: one task that owns all others

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Self]:
        await self._holding.enter()
        background = asyncio.create_task(self._lanes.run(self._failed), name=f"dynlog-consumer-{self._topic.name}")
        try:
            yield self
        finally:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSING_S):
                        await self._finish()
            finally:
                self._state = _State.CLOSED
                for lane in self._lanes.all:
                    lane.lose()
                background.cancel()
                await asyncio.gather(background, return_exceptions=True)
                self._ready.wake()

    async def _finish(self) -> None:
        """The last commit and the last word.  What is still in the user's hands is given back."""
        self._lanes.drain()
        if self._state is not _State.FAILED:
            with suppress(DynlogError):
                await self.commit()
        for lane in self._lanes.all:
            lane.lose()
        await self._holding.leave()

    def _failed(self, error: BaseException) -> None:
        self._failure, self._state = error, _State.FAILED
        for lane in self._lanes.all:
            lane.lose()
        self._ready.wake()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._state is _State.CLOSED:
            raise Closed("the consumer is closed")


def _cancelled() -> bool:
    """Whether somebody cancels this task: else a CancelledError is only what the handler's own work ended with."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
