"""A subscription under a name keeps its place in the log: what was published while it was away is seen when it is back.

With ``name`` it sees every event itself, and a later one of the same name fences it; with ``group`` the members of the
group share the events.  Retries, dead letters and the guarantee are the consumer's (`dynlog.consumer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from dynlog.consumer import Consumer
from dynlog.entity import DynamoEntityID
from dynlog.errors import DynlogError, MalformedRecord
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.network.events import Event, Place, from_record, log_topic
from dynlog.network.publishing import ensure_topic
from dynlog.network.registry import Registry
from dynlog.network.subscribing import EventHandler
from dynlog.received import Delivery


class NamedSubscription:
    """One subscription under a name or in a group; made by `DynamoNetworkManager.subscribe`, ended by `close`."""

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
        self.error: DynlogError | None = None
        """Why it ended before it was closed, if it did: a later one of its name, or what the log raised."""
        self._handler, self._registry, self._log = handler, registry, log
        self._name, self._group, self._settings = name, group, settings
        self._following: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def start(self) -> None:
        """Begins where the name stood, or at ``settings.start`` for a new one."""
        await self.follow(self._registry.view.above(self.entity))

    async def follow(self, above: Iterable[DynamoEntityID]) -> None:
        """Consumes the topics of these collections, too."""
        for entity in (self.entity, *above):
            name, partitions = log_topic(entity)
            if name not in self._following and not self._closed:
                opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                await ensure_topic(self._log, name, partitions)
                self._following[name] = asyncio.create_task(
                    self._consume(name, opened), name=f"dynlog-subscription {name}"
                )
                await opened

    def follows(self, above: Iterable[DynamoEntityID]) -> bool:
        """Whether the topics of these are consumed already."""
        return all(log_topic(entity)[0] in self._following for entity in above)

    async def _consume(self, log_topic_name: str, opened: asyncio.Future[None]) -> None:
        try:
            # Each subscription is a name of its own in the log: two topics of one name must not take from each other.
            name = f"{self._group or self._name}:{self.topic}"
            opening = (
                Consumer.open(self._log, log_topic_name, group=name, settings=self._settings)
                if self._group is not None
                else Consumer.broadcast(self._log, log_topic_name, name=name, settings=self._settings)
            )
            async with opening as consumer:
                opened.set_result(None)
                await consumer.run(self._handle)
        except DynlogError as error:
            self.error = error
            if not opened.done():
                opened.set_exception(error)
        finally:
            if not opened.done():
                opened.cancel()

    async def _handle(self, delivery: Delivery) -> None:
        with suppress(MalformedRecord):  # somebody else's record
            event = from_record(delivery.record, Place(delivery.topic, delivery.partition, delivery.offset))
            if event.topic != self.topic:
                return
            if event.view_offset > self._registry.view.offset:
                await self._registry.refresh()
            if event.target == self.entity or self._registry.view.was_below(
                self.entity, event.target, event.view_offset
            ):
                try:
                    await self._handler(replace(event, delivery=delivery))
                except BaseException:
                    self.failed += 1
                    raise
                self.seen += 1

    def wants(self, event: Event) -> bool:
        """Never by push: its place in the log is what it keeps."""
        return False

    async def close(self) -> None:
        """Ends it; what its handler has in hands is finished or comes again."""
        self._closed = True
        tasks, self._following = list(self._following.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
