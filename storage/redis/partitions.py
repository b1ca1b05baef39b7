"""Bounds, sizes and segments of partitions, as the server has them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dynlog.errors import TopicNotFound
from dynlog.storage.ledger import Segment, check_partition
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.partition_lua import BYTES_FROM, OFFSET_AT, SEGMENTS, STATE
from dynlog.storage.redis.reads import LOST, Gap, gaps_of
from dynlog.storage.redis.topics import Topics
from dynlog.timing import Deadline
from dynlog.topics import PartitionState, Topic

PAGE = 256


class Bounds(NamedTuple):
    """A partition's state, and where it has no records."""

    state: PartitionState
    gaps: Sequence[Gap]

    def lag(self, offset: int) -> int:
        """Records from ``offset`` on; what a server lost is not waited for."""
        lost = sum(
            min(gap.end, self.state.end) - max(gap.start, offset)
            for gap in self.gaps
            if gap.kind == LOST and gap.end > offset
        )
        return max(self.state.end - offset - lost, 0)


class Partitions:
    """The partitions of a handle's topics."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._topics = topics

    async def bounds(self, topic: Topic, which: Iterable[int], deadline: Deadline) -> dict[int, Bounds]:
        """The bounds of some partitions; raises PartitionNotFound, TopicNotFound if it was deleted meanwhile."""
        numbers = [check_partition(topic.name, topic.partitions, number) for number in which]
        jobs = [Job(self._topics.partition(topic, number)[:2]) for number in numbers]
        replies = await self._client.run_scripts(STATE, jobs, deadline)
        found: dict[int, Bounds] = {}
        for number, reply in zip(numbers, replies, strict=True):
            if reply is None:
                raise TopicNotFound("the topic was deleted", topic=topic.name)
            *counts, gaps = reply.split(b",")
            earliest, end, size, batches, time = (int(count) for count in counts)
            state = PartitionState(number, earliest, end, size, batches, time)
            found[number] = Bounds(state, gaps_of(gaps))
        return found

    async def offset_at(self, topic: Topic, partition: int, log_time_ms: int, deadline: Deadline) -> int:
        """The offset of the first record taken at or after that time."""
        keys = self._topics.partition(topic, check_partition(topic.name, topic.partitions, partition))
        found = await self._client.run_script(OFFSET_AT, Job(keys[:2], (log_time_ms,)), deadline)
        if found is None:
            raise TopicNotFound("the topic was deleted", topic=topic.name)
        return int(found)

    async def bytes_from(self, topic: Topic, positions: Mapping[int, int], deadline: Deadline) -> int:
        """What lies from the positions on."""
        jobs = [Job(self._topics.partition(topic, p)[:2], (offset,)) for p, offset in positions.items()]
        return sum(int(size) for size in await self._client.run_scripts(BYTES_FROM, jobs, deadline))

    async def segments(
        self, topic: Topic, partition: int, state: PartitionState, offset: int, deadline: Deadline
    ) -> list[Segment]:
        """The next few appends from an offset on; fewer than `PAGE` at the end."""
        keys = self._topics.partition(topic, partition)
        reply = await self._client.run_script(SEGMENTS, Job((keys.stream,), (offset, PAGE)), deadline)
        found: list[Segment] = []
        for item in reply.split():
            next_, time, size = (int(part) for part in item.split(b"-"))
            if next_ > state.end:
                break
            found.append(Segment(offset, next_, time, size))
            offset = next_
        return found
