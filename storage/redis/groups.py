"""Consumer groups: generations are counted and commits fenced in the topic's slot, where the holder moves too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgpack

from dynlog.errors import CommitFenced, ConfigurationError, LogDiverged, TopicNotFound
from dynlog.storage.ledger import beyond_end
from dynlog.storage.redis import topic_lua
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.partitions import Partitions
from dynlog.storage.redis.script import Script
from dynlog.storage.redis.topics import Topics
from dynlog.timing import Deadline
from dynlog.topics import GroupState, Topic, check_name


class Groups:
    """The groups of a handle's topics."""

    def __init__(self, client: Client, topics: Topics, partitions: Partitions) -> None:
        self._client = client
        self._topics = topics
        self._partitions = partitions

    async def open_generation(
        self, group: str, name: str, positions: Mapping[int, int] | None, deadline: Deadline
    ) -> int:
        """A new generation, at the given positions or where the group was."""
        check_name("group", group)
        topic = await self._topics.find(name, deadline)
        await self._check(topic, positions or {}, deadline)
        how: tuple[str | int, ...] = ("keep",) if positions is None else ("seek", *_flat(positions))
        reply = await self._run(topic_lua.OPEN_GENERATION, topic, (group, self._client.now_ms, *how), deadline)
        return int(reply[1])

    async def commit(
        self, group: str, name: str, positions: Mapping[int, int], generation: int, deadline: Deadline
    ) -> GroupState:
        """Moves the committed positions forward, unless a newer generation exists."""
        topic = await self._topics.find(name, deadline)
        try:
            await self._check(topic, positions, deadline)
        except LogDiverged:
            # Who is fenced learns that first, as on every engine.
            found = await self.committed(group, name, deadline)
            if generation != found.generation:
                raise _fenced(group, name, generation, found.generation) from None
            raise
        arguments: list[str | int] = [group, self._client.now_ms, generation, *_flat(positions)]
        reply = await self._run(topic_lua.COMMIT, topic, arguments, deadline)
        if reply[0] == b"FENCED":
            raise _fenced(group, name, generation, reply[1])
        return _state(group, reply[1])

    async def committed(self, group: str, name: str, deadline: Deadline) -> GroupState:
        """What the group committed."""
        topic = await self._topics.find(name, deadline)
        keys = self._topics.keys(topic)
        reply = await self._client.run_script(topic_lua.COMMITTED, Job((keys.state, keys.groups), (group,)), deadline)
        if reply[0] == b"GONE":
            raise TopicNotFound("the topic was deleted", topic=name)
        return _state(group, reply[1])

    async def _run(self, script: Script, topic: Topic, arguments: Sequence[str | int], deadline: Deadline) -> Any:
        keys = self._topics.keys(topic)
        job = Job((keys.state, keys.groups, keys.holders), arguments)
        reply = await self._client.run_script(script, job, deadline)
        if reply[0] == b"GONE":
            raise TopicNotFound("the topic was deleted", topic=topic.name)
        return reply

    async def _check(self, topic: Topic, positions: Mapping[int, int], deadline: Deadline) -> None:
        bounds = await self._partitions.bounds(topic, positions, deadline)
        for number, offset in positions.items():
            if offset < 0:
                raise ConfigurationError(f"a committed offset is 0 or more, not {offset} (partition {number})")
            if offset > bounds[number].state.end:
                raise beyond_end(topic.name, number, offset, bounds[number].state.end)


def _fenced(group: str, name: str, generation: int, newest: int) -> CommitFenced:
    return CommitFenced(
        f"group {group!r} commits in generation {generation} but the newest is {newest}: another member took over; "
        "stop, or open a generation",
        topic=name,
    )


def _flat(positions: Mapping[int, int]) -> list[int]:
    return [part for place in positions.items() for part in place]


def _state(group: str, raw: bytes | None) -> GroupState:
    generation, *flat = msgpack.unpackb(raw) if raw is not None else [0]
    return GroupState(group, generation, MappingProxyType(dict(zip(flat[::2], flat[1::2], strict=True))))
