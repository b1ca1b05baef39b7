"""Topics: made whole before anybody can find them, gone for everybody before anything of them is deleted.

What is half made or half deleted stands in ``doomed``; whoever opens the log later finishes it (`sweep`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgpack

from dynlog.errors import LogDiverged, TopicExists, TopicNotFound
from dynlog.storage.ledger import check_incarnation, check_partition_count
from dynlog.storage.redis import log_lua, partition_lua
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.keys import PartitionKeys, TopicKeys, partition_keys, topic_keys
from dynlog.storage.redis.wire import RUN
from dynlog.timing import Deadline
from dynlog.topics import Retention, Topic, check_name

SWEEP_AFTER_MS = 60_000
"""What stands in ``doomed`` for this long is nobody's work any more."""
SLICE = 512


class Topics:
    """The topics of a handle, with a memory of those seen: what an incarnation's keys depend on never changes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.settings.prefix
        self._seen: dict[str, Topic] = {}
        self._seen_in: dict[str, str] = {}

    # Keys

    def keys(self, topic: Topic) -> TopicKeys:
        """The topic's own keys."""
        return topic_keys(self._prefix, topic.name, topic.incarnation)

    def partition(self, topic: Topic, partition: int) -> PartitionKeys:
        """The keys of a partition."""
        return partition_keys(self._prefix, topic.name, topic.incarnation, partition)

    # Finding

    async def known(self, name: str, deadline: Deadline, incarnation: str | None = None) -> Topic:
        """The topic, perhaps as it was some time ago, of that incarnation if one is named; raises TopicNotFound."""
        topic = self._seen.get(name)
        if topic is None or (incarnation is not None and topic.incarnation != incarnation):
            topic = await self.find(name, deadline, incarnation)
        return topic

    def forget(self, name: str) -> None:
        """Makes the next `known` ask."""
        self._seen.pop(name, None)
        self._seen_in.pop(name, None)

    async def find(self, name: str, deadline: Deadline, incarnation: str | None = None) -> Topic:
        """The topic as it is now, of that incarnation if one is named.

        Raises TopicNotFound, LogDiverged if the whole log vanished under the handle.
        """
        keys = self._client.keys
        found = await self._client.run_script(log_lua.DESCRIBE, Job((keys.topics, keys.labels), (name,)), deadline)
        if found is None:
            if self._seen_in.get(name, self._client.identity) != self._client.identity:
                raise LogDiverged(
                    f"{self._client.name} came back without the log that was open: it keeps nothing on its disk, "
                    "or was flushed; create the topic anew and rebuild",
                    topic=name,
                )
            self.forget(name)
            raise TopicNotFound("no such topic; create it first", topic=name)
        topic = self._see(name, found[0], found[1])
        check_incarnation(topic, incarnation)
        return topic

    async def all(self, deadline: Deadline) -> list[Topic]:
        """Every topic, by name."""
        keys = self._client.keys
        topics, labels = await self._client.run_script(log_lua.LIST, Job((keys.topics, keys.labels)), deadline)
        of = dict(zip(labels[::2], labels[1::2], strict=True))
        found = [
            self._see(name.decode(), value, of.get(msgpack.unpackb(value)[0].encode()))
            for name, value in zip(topics[::2], topics[1::2], strict=True)
        ]
        return sorted(found, key=lambda topic: topic.name)

    def _see(self, name: str, value: bytes, labels: bytes | None) -> Topic:
        incarnation, partitions, max_age_s, max_bytes, created_ms = msgpack.unpackb(value)
        tags = MappingProxyType(dict(msgpack.unpackb(labels)) if labels else {})
        topic = Topic(name, incarnation, partitions, Retention(max_age_s, max_bytes), created_ms, tags)
        self._remember(topic)
        return topic

    def _remember(self, topic: Topic) -> None:
        self._seen[topic.name], self._seen_in[topic.name] = topic, self._client.identity

    # Making and deleting

    async def create(
        self,
        name: str,
        partitions: int,
        retention: Retention,
        labels: Mapping[str, str],
        exist_ok: bool,
        deadline: Deadline,
    ) -> Topic:
        """Makes the topic, or returns what is there if ``exist_ok``."""
        check_name("topic", name)
        check_partition_count(partitions)
        try:
            found = await self.find(name, deadline)
        except (TopicNotFound, LogDiverged):
            pass
        else:
            return _there(found, partitions, exist_ok)
        now_ms = self._client.now_ms
        topic = Topic(name, uuid.uuid4().hex, partitions, retention, now_ms, MappingProxyType(dict(labels)))
        keys, incarnation = self._client.keys, topic.incarnation
        # Were this interrupted, the next sweep would take away what is there of it.
        await self._client.run_commands(
            [("HSET", keys.doomed, incarnation, msgpack.packb([name, partitions, now_ms]))], deadline
        )
        await self._make(topic, deadline)
        value = msgpack.packb([incarnation, partitions, retention.max_age_s, retention.max_bytes, now_ms])
        arguments = (name, value, incarnation, msgpack.packb(dict(labels)))
        other = await self._client.run_script(
            log_lua.CREATE, Job((keys.topics, keys.labels, keys.doomed), arguments), deadline
        )
        if other is None or msgpack.unpackb(other[0])[0] == incarnation:
            self._remember(topic)
            return topic
        await self._take_away(name, incarnation, partitions, deadline)
        return _there(self._see(name, other[0], other[1]), partitions, exist_ok)

    async def _make(self, topic: Topic, deadline: Deadline) -> None:
        state = self.keys(topic).state
        await self._client.run_commands([("HSET", state, "version", 1, "enforced", topic.created_ms)], deadline)
        for start in range(0, topic.partitions, SLICE):
            numbers = range(start, min(start + SLICE, topic.partitions))
            jobs = [Job((self.partition(topic, p).meta,), (RUN,)) for p in numbers]
            await self._client.run_scripts(partition_lua.MAKE, jobs, deadline)

    async def delete(self, name: str, deadline: Deadline) -> None:
        """Takes the name away, then what lies under it; wakes whoever waits in it."""
        keys = self._client.keys
        job = Job((keys.topics, keys.labels, keys.doomed), (name, self._client.now_ms))
        self.forget(name)
        value = await self._client.run_script(log_lua.DELETE, job, deadline)
        if value is None:
            raise TopicNotFound("no such topic; create it first", topic=name)
        incarnation, partitions, *_ = msgpack.unpackb(value)
        await self._take_away(name, incarnation, partitions, deadline)

    async def _take_away(self, name: str, incarnation: str, partitions: int, deadline: Deadline) -> None:
        own = topic_keys(self._prefix, name, incarnation)
        await self._client.run_commands([("UNLINK", *own)], deadline)
        for start in range(0, partitions, SLICE):
            places = [
                partition_keys(self._prefix, name, incarnation, p)
                for p in range(start, min(start + SLICE, partitions))
            ]  # fmt: skip
            jobs = [Job(place[:3], (place.bell,)) for place in places]
            await self._client.run_scripts(partition_lua.DROP, jobs, deadline)
        await self._client.run_commands([("HDEL", self._client.keys.doomed, incarnation)], deadline)

    async def sweep(self, deadline: Deadline) -> None:
        """Finishes what others left half made or half deleted."""
        doomed: list[Any] = await self._client.run_script(
            log_lua.DOOMED, Job((self._client.keys.doomed,)), deadline
        )  # fmt: skip
        now_ms = self._client.now_ms
        for incarnation, value in zip(doomed[::2], doomed[1::2], strict=True):
            name, partitions, since_ms = msgpack.unpackb(value)
            if now_ms - since_ms > SWEEP_AFTER_MS:
                await self._take_away(name, incarnation.decode(), int(partitions), deadline)

    # Labels

    async def label(self, name: str, label: str, value: str, deadline: Deadline) -> str:
        """Sets the label unless it is set; the value that it has then."""
        keys = self._client.keys
        found = await self._client.run_script(
            log_lua.LABEL, Job((keys.topics, keys.labels), (name, label, value)), deadline
        )
        if found is None:
            raise TopicNotFound("no such topic; create it first", topic=name)
        return str(found.decode())


def _there(found: Topic, partitions: int, exist_ok: bool) -> Topic:
    if not exist_ok:
        raise TopicExists("the topic exists already", topic=found.name)
    if found.partitions != partitions:
        raise TopicExists(
            f"the topic exists with {found.partitions} partitions, not {partitions}", topic=found.name
        )  # fmt: skip
    return found
