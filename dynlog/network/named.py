"""A subscription under a name keeps its place in the log: what was published while it was away is seen when it is back.

With ``name`` it sees every event itself, and a later one of the same name fences it; with ``group`` the members of the
group share the events.  Both are of one entity and topic.  Retries, dead letters and the guarantee are the consumer's
(`dynlog.consumer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from dynlog.consumer import Consumer
from dynlog.entity import DynamoEntityID
from dynlog.errors import DeadlineExceeded, MalformedRecord
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.network.events import Place, from_record, log_topic
from dynlog.network.events_place import group_of, positions_of
from dynlog.network.registry import Registry
from dynlog.network.subscribing import EventHandler
from dynlog.received import Delivery
from dynlog.timing import Backoff, Deadline

BEGIN_S = 30.0
_LOOKS = Backoff(first=0.01, most=0.25)


class NamedSubscription:
    """One subscription under a name or in a group; made by `DynamoNetworkManager.subscribe`, ended by `close`.

    ``over`` is set if it ended before it was closed; ``error`` says why: a later one of its name, or what the log
    raised.
    """

    def __init__(
        self,
        entity: DynamoEntityID,
        topic: str,
        handler: EventHandler,
        registry: Registry,
        log: Log,
        *,
        name: str | None,
        group: str | None,
        settings: ConsumerSettings,
    ) -> None:
        self.entity, self.topic = entity, topic
        self.seen = self.failed = 0
        self.error: Exception | None = None
        self.over = asyncio.Event()
        self._handler, self._registry, self._log = handler, registry, log
        self._shared = group is not None
        self._group = group_of(group or name or "", entity, topic)
        self._settings = settings
        self._following: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Begins where the name stood, or at ``settings.start`` for a new one."""
        async with self._opening:
            for entity in (self.entity, *self._registry.view.above(self.entity)):
                await self._open(entity, from_edge=False)

    def follows(self, above: Iterable[DynamoEntityID]) -> bool:
        """Whether the topics of these are consumed already."""
        return all(log_topic(entity)[0] in self._following for entity in above)

    async def follow(self, above: Iterable[DynamoEntityID]) -> None:
        """Consumes the topics of these collections, too, from where the entity came to belong to them."""
        async with self._opening:  # a second consumer of the name would fence the first
            for entity in above:
                await self._open(entity, from_edge=True)

    async def _open(self, entity: DynamoEntityID, *, from_edge: bool) -> None:
        name, _ = log_topic(entity)
        if name in self._following or self._closed:
            return
        since = self._registry.view.above(self.entity).get(entity) if from_edge else None
        positions = await positions_of(self._log, entity, since)
        settings = self._settings
        if since is not None and len(positions) == 1:
            settings = replace(settings, start=positions[0].offset)
        if self._closed:
            return
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._consume(name, settings, opened), name=f"dynlog-subscription {name}")
        self._following[name] = task
        try:
            await opened
        except BaseException:
            self._following.pop(name, None)  # `close` has taken it already, or it is to be tried again
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise

    async def _consume(self, name: str, settings: ConsumerSettings, opened: asyncio.Future[None]) -> None:
        try:
            opening = (
                Consumer.open(self._log, name, group=self._group, settings=settings)
                if self._shared
                else Consumer.broadcast(self._log, name, name=self._group, settings=settings)
            )
            async with opening as consumer:
                if self._shared:
                    await self._has_begun(name)
                opened.set_result(None)
                await consumer.run(self._handle)
        except Exception as error:
            if not opened.done():
                opened.set_exception(error)
            elif self.error is None:
                self.error = error
                self.over.set()
        finally:
            if not opened.done():
                opened.cancel()

    async def _has_begun(self, name: str) -> None:
        """Waits until the group knows where it begins: "the end" is settled by whichever member leads it."""
        partitions, deadline = (await self._log.topic(name)).partitions, Deadline(BEGIN_S)
        for pause in _LOOKS:
            if len((await self._log.committed(self._group, name)).positions) >= partitions:
                return
            if deadline.passed:
                raise DeadlineExceeded(f"group {self._group} on {name} did not begin in {BEGIN_S:g} s: who leads it?")
            await asyncio.sleep(min(pause, deadline.remaining))

    async def _handle(self, delivery: Delivery) -> None:
        try:
            event = from_record(delivery.record, Place(delivery.topic, delivery.partition, delivery.offset))
        except MalformedRecord:  # somebody else's record
            return
        if event.topic != self.topic:
            return
        if event.view_offset > self._registry.view.offset:
            await self._registry.refresh()
        view = self._registry.view
        # While it was away it belonged to nothing: what came then is judged by what it belonged to when it was back.
        if not view.was_below(self.entity, event.target, max(event.view_offset, view.joined(self.entity))):
            return
        try:
            await self._handler(replace(event, delivery=delivery))
        except BaseException:
            self.failed += 1
            raise
        self.seen += 1

    async def close(self) -> None:
        """Ends it; what its handler has in hands is finished or comes again."""
        self._closed = True
        tasks, self._following = list(self._following.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
