"""Which topics there are: what the log's own topic says, checked against what Kafka has under that name now.

* A topic is the incarnation that Kafka's topic id names; deleted and made anew by whatever tool, it is another one.
* A topic is created once: the intent is an entry, then Kafka creates it, and the first who announces it made it.
  Whoever dies in between leaves an intent, and the next one who creates the topic goes on from there.
* A topic that others made is readable as it is; it becomes known (``adopt``) when somebody holds or labels it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import NamedTuple

from dynlog.errors import LogDiverged, OffsetTruncated, TopicExists, TopicNotFound
from dynlog.storage.kafka import admin
from dynlog.storage.kafka.cluster import Cluster, Place
from dynlog.storage.kafka.lanes import Lanes
from dynlog.storage.kafka.meta import Meta
from dynlog.storage.kafka.names import foreign_name, kafka_name
from dynlog.storage.kafka.state import State, TopicState, pack_topic
from dynlog.storage.ledger import check_incarnation
from dynlog.timing import Deadline
from dynlog.topics import Retention, Topic


class Found(NamedTuple):
    """A topic, Kafka's name and id of it; ``state`` is None for one that others made and nobody holds."""

    info: Topic
    kafka: str
    id: bytes
    state: TopicState | None


class Topics:
    """The topics of one log handle."""

    def __init__(self, cluster: Cluster, lanes: Lanes, meta: Meta, prefix: str, replication: int) -> None:
        self._cluster = cluster
        self._lanes = lanes
        self._meta = meta
        self._prefix = prefix
        self._replication = replication

    def cached(self, name: str) -> Found | None:
        """The topic as last heard of, which may be long ago."""
        state = self._meta.state.topics.get(name)
        return None if state is None else self._known(state)

    def _known(self, state: TopicState) -> Found:
        kafka = kafka_name(self._prefix, state.info.name)
        return Found(state.info, kafka, bytes.fromhex(state.info.incarnation), state)

    async def find(self, name: str, deadline: Deadline, incarnation: str | None = None) -> Found:
        """The topic as it is now, of that incarnation if one is named; raises TopicNotFound."""
        state = await self._meta.sync(deadline)
        kafka = kafka_name(self._prefix, name)
        place = (await self._cluster.describe([kafka], deadline)).get(kafka)
        found = None if place is None else self._match(state, name, place)
        if found is None:
            if name in state.topics:
                raise TopicNotFound(f"another tool deleted {kafka} in Kafka; create the topic anew", topic=name)
            raise TopicNotFound("no such topic; create it first", topic=name)
        check_incarnation(found.info, incarnation)
        return found

    def _match(self, state: State, name: str, place: Place) -> Found | None:
        known = state.topics.get(name)
        if known is not None and known.info.incarnation == place.incarnation:
            return self._known(known)
        if state.doomed.get(name) == place.incarnation or name in state.intended:
            return None
        info = Topic(name, place.incarnation, len(place.leaders), Retention(), 0)
        return Found(info, place.name, place.id, None)

    async def owned(self, name: str, deadline: Deadline, incarnation: str | None = None) -> Found:
        """As `find`; a topic that others made becomes known to the log."""
        found = await self.find(name, deadline, incarnation)
        if found.state is None:
            await self._meta.change(deadline, "adopt", pack_topic(found.info))
            found = await self.find(name, deadline, incarnation)
        return found

    @asynccontextmanager
    async def meaning(self, name: str, deadline: Deadline, incarnation: str | None) -> AsyncIterator[None]:
        """What asks Kafka by name may be told of the successor's offsets: then this says what has happened."""
        try:
            yield
        except (LogDiverged, OffsetTruncated):
            if incarnation is not None:
                await self.find(name, deadline, incarnation)
            raise

    async def all(self, deadline: Deadline) -> list[Found]:
        """All topics by name."""
        state = await self._meta.sync(deadline)
        places = await self._cluster.describe(None, deadline)
        found: dict[str, Found] = {}
        for known in state.topics.values():
            kafka = kafka_name(self._prefix, known.info.name)
            place = places.pop(kafka, None)
            match = None if place is None else self._match(state, known.info.name, place)
            if match is not None:
                found[match.info.name] = match
        for place in places.values():
            name = foreign_name(self._prefix, place.name)
            match = None if name is None else self._match(state, name, place)
            if match is not None:
                found[match.info.name] = match
        return [found[name] for name in sorted(found)]

    async def create(
        self,
        name: str,
        partitions: int,
        retention: Retention,
        labels: Mapping[str, str],
        exist_ok: bool,
        now_ms: int,
        deadline: Deadline,
    ) -> Topic:
        """See `Log.create_topic`."""
        try:
            return _existing((await self.find(name, deadline)).info, partitions, exist_ok)
        except TopicNotFound:
            pass
        kafka, state = kafka_name(self._prefix, name), self._meta.state
        if name in state.topics:
            await self._forget(self._known(state.topics[name]), deadline)
        if name in state.doomed:
            await self._bury(name, kafka, state.doomed[name], deadline)
        if name not in state.intended:
            try:
                await self._meta.change(deadline, "intend", name)
            except TopicExists:
                return _existing((await self.find(name, deadline)).info, partitions, exist_ok)
        place = await admin.create_topic(self._cluster, kafka, partitions, self._replication, deadline)
        if len(place.leaders) != partitions:
            raise TopicExists(f"the topic exists with {len(place.leaders)} partitions, not {partitions}", topic=name)
        info = Topic(name, place.incarnation, partitions, retention, now_ms, MappingProxyType(dict(labels)))
        try:
            created: Topic = await self._meta.change(deadline, "create", pack_topic(info))
        except TopicExists:
            return _existing((await self.find(name, deadline)).info, partitions, exist_ok)
        return created

    async def delete(self, name: str, deadline: Deadline) -> None:
        """See `Log.delete_topic`."""
        found = await self.find(name, deadline)
        if found.state is None:
            await admin.delete_topic(self._cluster, found.kafka, found.id, deadline)
        else:
            await self._forget(found, deadline)

    async def _forget(self, found: Found, deadline: Deadline) -> None:
        name, incarnation = found.info.name, found.info.incarnation
        await self._meta.change(deadline, "delete", name, incarnation)
        await self._bury(name, found.kafka, incarnation, deadline)

    async def _bury(self, name: str, kafka: str, incarnation: str, deadline: Deadline) -> None:
        await admin.delete_topic(self._cluster, kafka, bytes.fromhex(incarnation), deadline)
        await self._meta.change(deadline, "buried", name, incarnation)
        self._lanes.leave(kafka)


def _existing(info: Topic, partitions: int, exist_ok: bool) -> Topic:
    if not exist_ok:
        raise TopicExists("the topic exists already", topic=info.name)
    if info.partitions != partitions:
        raise TopicExists(f"the topic exists with {info.partitions} partitions, not {partitions}", topic=info.name)
    return info
