"""Subscribing: from a log every event is seen in order, whatever became of its push; without one, what could be pushed.

With a log a subscription follows the topics that can bring it events (`dynlog.network.events_tail`).  Without one each
pushed event waits in a queue, in room that its publisher was given first.  Order is kept for what one publisher sends
to one target.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from dynlog.entity import DynamoEntityID
from dynlog.errors import DynlogError
from dynlog.log import Log
from dynlog.network.events import Event, log_topic
from dynlog.network.events_place import positions_of
from dynlog.network.events_tail import Tail
from dynlog.network.registry import Registry

_log = logging.getLogger(__name__)
QUEUE = 256
QUEUE_BYTES = 4 << 20
"""How much waits for a subscription's handler, besides what came over sessions and has room there."""

EventHandler = Callable[[Event], Awaitable[object]]
Done = Callable[[], None]


class Subscription:
    """One subscription; made by `DynamoNetworkManager.subscribe`, ended by `close`.

    The handler is given one event at a time.  What it raises is logged and counted, and the next event follows: for
    retries and dead letters subscribe under a name.  ``over`` is set if it ended before it was closed; ``error`` says
    why.
    """

    def __init__(
        self, entity: DynamoEntityID, topic: str, handler: EventHandler, registry: Registry, log: Log | None
    ) -> None:
        self.entity, self.topic = entity, topic
        self.seen = self.failed = 0
        """Events that were handled, and that the handler failed at."""
        self.error: Exception | None = None
        self.over = asyncio.Event()
        self._handler, self._registry, self._log = handler, registry, log
        self._queue: deque[tuple[Event, Done | None]] = deque()
        self._queued_bytes = 0
        self._filled, self._room = asyncio.Event(), asyncio.Event()
        self._tails: dict[str, Tail] = {}
        """By log topic."""
        self._tasks: list[asyncio.Task[None]] = []
        self._opening = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Begins; what is published from now on is seen."""
        if self._log is not None:
            async with self._opening:
                for entity in (self.entity, *self._registry.view.above(self.entity)):
                    await self._open(self._log, entity, from_edge=False)
        self._start(self._work(), f"{self.entity} {self.topic}")

    def follows(self, above: Iterable[DynamoEntityID]) -> bool:
        """Whether the topics of these are read already."""
        return all(log_topic(entity)[0] in self._tails for entity in above)

    async def follow(self, above: Iterable[DynamoEntityID]) -> None:
        """Reads the topics of these collections, too, from where the entity came to belong to them."""
        assert self._log is not None
        async with self._opening:  # the second tail of a topic would bring again what the first has brought
            for entity in above:
                await self._open(self._log, entity, from_edge=True)

    async def _open(self, log: Log, entity: DynamoEntityID, *, from_edge: bool) -> None:
        name, _ = log_topic(entity)
        if name in self._tails or self._closed:
            return
        since = self._registry.view.above(self.entity).get(entity) if from_edge else None
        positions = await positions_of(log, entity, since)
        if self._closed:
            return
        tail = self._tails[name] = Tail(log, positions, self)
        self._start(tail.run(), name)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"dynlog-subscription {name}"))

    # What a wire brings.

    def wants(self, event: Event) -> bool:
        """Whether the event is for this subscription: it was published to its entity or to one above it."""
        return event.topic == self.topic and self._registry.view.was_below(self.entity, event.target, event.view_offset)

    def pushed(self, event: Event, done: Done | None) -> bool:
        """An event came over a wire; whether it was taken: then ``done`` is called once its room is free again."""
        place = event.place
        if place is None or self._log is None:
            # The publisher's registry may be ahead: whether it is for this one is asked again when it is handled.
            if event.topic != self.topic or not (event.view_offset > self._registry.view.offset or self.wants(event)):
                return False
        else:
            # The log has it: it is taken only if it is the very next one and there is room.
            tail = self._tails.get(place.topic)
            if tail is None:
                return False
            if not tail.is_next(place) or self.full or not self.wants(event):
                tail.refused(place)
                return False
            tail.took(place)
        self.put(event, done)
        return True

    # What waits.

    @property
    def skipped(self) -> int:
        """Events that the log brought, too, after a push had."""
        return sum(tail.skipped for tail in self._tails.values())

    @property
    def full(self) -> bool:
        """Whether an event that was given no room elsewhere cannot be taken now."""
        return len(self._queue) >= QUEUE or self._queued_bytes >= QUEUE_BYTES

    async def room(self) -> None:
        """Waits until there may be some."""
        self._room.clear()
        await self._room.wait()

    def put(self, event: Event, done: Done | None = None) -> None:
        """The event is the handler's when its turn comes."""
        self._queue.append((event, done))
        self._queued_bytes += len(event.body)
        self._filled.set()

    # What becomes of it.

    async def _work(self) -> None:
        queue = self._queue
        while True:
            while queue:
                event, done = queue.popleft()
                self._queued_bytes -= len(event.body)
                if not self.full:
                    self._room.set()
                try:
                    if event.place is None and not await self.wants_now(event):
                        continue
                    await self._handle(event)
                finally:
                    if done is not None:
                        done()
            self._filled.clear()
            await self._filled.wait()

    async def wants_now(self, event: Event) -> bool:
        """As `wants`, also if the publisher's registry is ahead of this one."""
        if event.view_offset > self._registry.view.offset:
            with suppress(DynlogError):  # judged by what is known, if the registry is away
                await self._registry.refresh()
        return self.wants(event)

    async def _handle(self, event: Event) -> None:
        try:
            await self._handler(event)
            self.seen += 1
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            self.failed += 1  # what the handler awaited was cancelled, not the handler
        except Exception as error:
            self.failed += 1
            _log.warning("the handler of events on %r raised %r", self.topic, error, exc_info=error)

    def end(self, error: Exception) -> None:
        """The log can bring no more: what came is handled still, and whoever looks at ``over`` is told."""
        if self.error is None:
            _log.error("the subscription to %r of %s ended: %s", self.topic, self.entity, error)
            self.error = error
            self.over.set()

    async def close(self) -> None:
        """Ends it; a handler at work is cancelled."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            _, done = self._queue.popleft()
            if done is not None:
                done()
