"""Publishing: first into the log, then, once that is durable, over the wires to whoever subscribes.

A push that is lost delays its event by the time that a read of the log takes, and costs nothing else.  Without a log a
publication goes over the wires alone and says whom it did not reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError, DynlogError, LogDiverged, ProducerFenced, TopicExists, TopicNotFound
from dynlog.log import Log
from dynlog.network.events import MAX_EVENT_BYTES, Event, Place, Reach, log_topic, to_push, to_record
from dynlog.network.hierarchy import Member
from dynlog.network.registry import Registry
from dynlog.network.services import check_topic
from dynlog.producer import Producer
from dynlog.record import Buffer

MAX_PRODUCERS = 256
"""To how many entities' log topics a publisher keeps a producer; the oldest is closed."""


class Pusher(Protocol):
    """How events get to other processes."""

    def push(self, member: Member, topic: str, encoded: bytes, event: Event) -> bool:
        """Hands an encoded event to a member's process; False if there is no way to it, or no room on it, now."""

    async def reach(self, member: Member) -> None:
        """Makes a way to the member's process; raises DynlogError if there is none within a few seconds."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication."""

    view_offset: int
    """Of the registry: whoever subscribed at it is reached."""
    place: Place | None
    """Where it lies in the log; None if it went over wires alone."""
    pushed: int
    """To how many processes it was handed."""
    unreached: tuple[DynamoEntityID, ...] = field(default=())
    """Processes that subscribe and could not be handed it now; from a log they read it, else it is lost to them."""


class Publisher:
    """Publishes for one manager."""

    def __init__(self, log: Log | None, registry: Registry, sender: DynamoEntityID, pusher: Pusher) -> None:
        self._log, self._registry, self._sender, self._pusher = log, registry, sender, pusher
        self._sender_text = str(sender).encode()
        self._producers: dict[str, Producer] = {}
        self._opening = asyncio.Lock()

    async def publish(
        self, target: DynamoEntityID, topic: str, body: Buffer, headers: Mapping[str, str], reach: Reach | None
    ) -> Published:
        """See `DynamoNetworkManager.publish`."""
        check_topic(topic)
        if len(body) > MAX_EVENT_BYTES:
            raise ConfigurationError(
                f"an event of {len(body)} bytes is over the {MAX_EVENT_BYTES} that are allowed: put the body into an "
                f"object store and publish its key"
            )
        if reach is None:
            reach = Reach.AT_MOST_ONCE if self._log is None else Reach.AT_LEAST_ONCE
        event = Event(target, topic, body, self._sender, self._registry.view.offset, headers)
        whom = str(target).encode()
        if reach is Reach.AT_LEAST_ONCE:
            if self._log is None:
                raise ConfigurationError("without a log an event is delivered at most once: open the manager with one")
            name, partitions = log_topic(target)
            producer = self._producers.get(name) or await self._producer(self._log, name, partitions)
            try:
                stored = await producer.send(to_record(event, whom, self._sender_text))
            except (ProducerFenced, LogDiverged, TopicNotFound):
                await self._drop(name, producer)  # the topic is no longer what it was: the next event finds out
                raise
            event.place = Place(name, stored.partition, stored.offset)
        interested = self._registry.view.interested(target, topic)
        if not interested:
            return Published(event.view_offset, event.place, 0)
        encoded = to_push(event, whom, self._sender_text)
        left = [member for member in interested if not self._pusher.push(member, topic, encoded, event)]
        if left and event.place is None:
            # Nothing else brings it to them: it is worth the time that a connection takes.
            ways = await asyncio.gather(*(self._pusher.reach(member) for member in left), return_exceptions=True)
            left = [
                member
                for member, way in zip(left, ways, strict=True)
                if isinstance(way, BaseException) or not self._pusher.push(member, topic, encoded, event)
            ]
        unreached = tuple(member.entity for member in left)
        return Published(event.view_offset, event.place, len(interested) - len(left), unreached)

    async def _producer(self, log: Log, name: str, partitions: int) -> Producer:
        async with self._opening:
            producer = self._producers.get(name)
            if producer is None:
                await ensure_topic(log, name, partitions)
                producer = await Producer(log, name).__aenter__()
                if len(self._producers) >= MAX_PRODUCERS:
                    await self._drop(*next(iter(self._producers.items())))
                self._producers[name] = producer
        return producer

    async def _drop(self, name: str, producer: Producer) -> None:
        if self._producers.get(name) is producer:
            del self._producers[name]
            with suppress(DynlogError):  # told to whoever waits for an event of it
                await producer.close()

    async def flush(self) -> None:
        """Returns once everything that was published is in the log; raises what kept any of it out."""
        await asyncio.gather(*(producer.flush() for producer in list(self._producers.values())))

    async def close(self) -> None:
        """Returns once what was published is in the log, or was given up."""
        producers, self._producers = list(self._producers.values()), {}
        await asyncio.gather(*(producer.close() for producer in producers), return_exceptions=True)


async def ensure_topic(log: Log, name: str, partitions: int) -> None:
    """The topic is there afterwards; one that is there already stays as it is."""
    try:
        await log.create_topic(name, partitions=partitions, exist_ok=True)
    except TopicExists:
        # With another number of partitions: it was made by hand, and keys find their place in it as well.
        await log.topic(name)
