"""Subscribing: from a log every event is seen in order, whatever became of its push; without one, what could be pushed.

With a log a subscription follows the topics that can bring it events, from their ends on, or under a name from where
that name stood; pushes only bring the next event sooner.  A push that is not the next one is let go: the log has it.
Without a log each pushed event waits in a queue whose room the publisher must have been given first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from dynlog.batch import Batch
from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, DynlogError, LogUnavailable, MalformedRecord
from dynlog.log import Log
from dynlog.network.events import Event, Place, from_record, log_topic
from dynlog.network.publishing import ensure_topic
from dynlog.network.registry import Registry
from dynlog.reader import Reader
from dynlog.timing import Backoff

_log = logging.getLogger(__name__)
QUEUE = 256
"""How many events wait for a subscription's handler."""
READ_WAIT_S = 5.0

EventHandler = Callable[[Event], Awaitable[object]]


class _Moved(NamedTuple):
    """A read passed over what lies below this place."""

    place: Place


class Subscription:
    """One subscription; made by `DynamoNetworkManager.subscribe`, ended by `close`.

    The handler is given one event at a time.  What it raises is logged and counted, and the next event follows: for
    retries and dead letters subscribe under a name.
    """

    def __init__(
        self, entity: DynamoEntityID, topic: str, handler: EventHandler, registry: Registry, log: Log | None
    ) -> None:
        self.entity, self.topic = entity, topic
        self.seen = self.failed = self.skipped = 0
        """Events that were handled, that the handler failed at, and repeats that were let go."""
        self.error: DynlogError | None = None
        """Why it ended before it was closed, if it did."""
        self._handler, self._registry, self._log = handler, registry, log
        self._queue: asyncio.Queue[tuple[Event | _Moved, Callable[[], None] | None]] = asyncio.Queue(QUEUE)
        self._next: dict[tuple[str, int], int] = {}
        """The offset that comes next, by log topic and partition."""
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Begins; what is published from now on is seen."""
        if self._log is not None:
            await self.follow(self._registry.view.above(self.entity))
        self._spawn(self._work(), f"dynlog-subscription {self.entity} {self.topic}")

    async def follow(self, above: Iterable[DynamoEntityID]) -> None:
        """Reads the topics of these collections, too, from their ends on."""
        assert self._log is not None
        for entity in (self.entity, *above):
            name, partitions = log_topic(entity)
            if name not in self._readers and not self._closed:
                await ensure_topic(self._log, name, partitions)
                reader = await Reader.open(self._log, name, "end")
                for partition, position in reader.positions.items():
                    self._next[name, partition] = position.offset
                self._readers[name] = self._spawn(self._read(reader), f"dynlog-subscription {name}")

    def follows(self, above: Iterable[DynamoEntityID]) -> bool:
        """Whether the topics of these are read already."""
        return all(log_topic(entity)[0] in self._readers for entity in above)

    def wants(self, event: Event) -> bool:
        """Whether the event is for this subscription: it was published to its entity or to one above it."""
        return event.topic == self.topic and (
            event.target == self.entity or self._registry.view.was_below(self.entity, event.target, event.view_offset)
        )

    def pushed(self, event: Event, done: Callable[[], None]) -> None:
        """An event came over a wire; ``done`` is called once its room is free again."""
        if event.place is not None and self._log is not None:
            # The log has it: it is taken only if it is the very next one and there is room.
            done()
            if self._next.get(event.place[:2]) == event.place.offset and not self._queue.full():
                self._queue.put_nowait((event, None))
            return
        try:
            self._queue.put_nowait((event, done))
        except asyncio.QueueFull:
            # Another publisher's credit let it come: room is made by whoever waits in line.
            self._spawn(self._later(event, done), "dynlog-subscription late")

    async def _later(self, event: Event, done: Callable[[], None]) -> None:
        await self._queue.put((event, done))

    async def _work(self) -> None:
        while True:
            item, done = await self._queue.get()
            try:
                if isinstance(item, _Moved):
                    key = item.place[:2]
                    self._next[key] = max(self._next.get(key, 0), item.place.offset)
                    continue
                if item.place is not None and self._log is not None:
                    key = item.place[:2]
                    if item.place.offset < self._next.get(key, 0):
                        self.skipped += 1
                        continue
                    self._next[key] = item.place.offset + 1
                await self._handle(item)
            finally:
                if done is not None:
                    done()

    async def _handle(self, event: Event) -> None:
        try:
            await self._handler(event)
            self.seen += 1
        except Exception as error:
            self.failed += 1
            _log.warning("the handler of events on %r raised %r", self.topic, error, exc_info=error)

    async def _read(self, reader: Reader) -> None:
        """What the log brings goes into the queue, and waits there for room."""
        async with reader:
            pauses = iter(Backoff())
            while True:
                try:
                    batch = await reader.next(READ_WAIT_S)
                    pauses = iter(Backoff())
                except LogUnavailable as error:
                    _log.warning("events on %r wait for the log: %s", self.topic, error)
                    await asyncio.sleep(next(pauses))
                    continue
                except DynlogError as error:
                    self.error = error
                    _log.error("the subscription to %r of %s ended: %s", self.topic, self.entity, error)
                    return
                if batch is not None:
                    await self._take(batch)

    async def _take(self, batch: Batch) -> None:
        for partition, offset, _, record in batch:
            place = Place(batch.topic, partition, offset)
            try:
                event = from_record(record, place)
            except MalformedRecord as error:
                _log.warning("passed over: %s", error)
                continue
            if event.topic != self.topic:
                continue
            if event.view_offset > self._registry.view.offset:
                with suppress(DynlogError):  # judged by what is known, if the registry is away
                    await self._registry.refresh()
            if self.wants(event):
                await self._queue.put((event, None))
        await self._queue.put((_Moved(Place(batch.topic, batch.partition, batch.next_offset)), None))

    def _spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        if self._closed:
            raise Closed(f"the subscription to {self.topic!r} was closed")
        task = asyncio.ensure_future(work)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Ends it; a handler at work is cancelled."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._queue.empty():
            _, done = self._queue.get_nowait()
            if done is not None:
                done()
