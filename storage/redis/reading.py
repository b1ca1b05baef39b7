"""The read: where it may begin, what it finds, and how it waits at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dynlog.batch import Batch, Position
from dynlog.errors import DynlogError, LogDiverged, LogUnavailable, TopicNotFound
from dynlog.storage.ledger import beyond_end, check_partition, gone, other_incarnation, truncated
from dynlog.storage.redis.appends import place
from dynlog.storage.redis.bell import Bell, Channel
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.partition_lua import READ
from dynlog.storage.redis.reads import build, page_of
from dynlog.storage.redis.topics import Topics
from dynlog.timing import Backoff, Deadline
from dynlog.topics import Topic

READ_PATIENCE_S = 10.0
"""How long a read goes on trying to reach a server that is away before it says so."""


class Reads:
    """The reads of a handle; ``saw`` is told each end that a read found."""

    def __init__(self, client: Client, topics: Topics, bell: Bell, saw: Callable[[str, int], None]) -> None:
        self._client = client
        self._topics = topics
        self._bell = bell
        self._saw = saw

    async def read(self, position: Position, max_records: int | None, max_bytes: int, wait: float) -> Batch:
        """See `dynlog.log.Log.read`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        topic = await self._topic_at(position)
        keys, context = self._topics.partition(topic, position.partition), place(topic, position.partition)
        while True:
            deadline = Deadline(READ_PATIENCE_S)
            # Heard first, then read: an append that the read does not see rings.
            channel = await self._listen(keys.bell, deadline) if wait > 0 else None
            job = Job(keys[:2], (position.offset, max_bytes, max_records or 0))
            reply = await self._client.run_script(READ, job, deadline)
            if reply[0] != b"OK":
                raise await self._misplaced(position, reply, wait > 0)
            page = page_of(reply)
            batch = build(position, page, context, max_records)
            if batch.next_offset > position.offset or channel is None or loop.time() >= until:
                self._saw(keys.meta, page.end)
                return batch
            if not await self._bell.wait(channel, page.end, until):
                return batch

    async def _listen(self, bell: str, deadline: Deadline) -> Channel:
        """The channel, as soon as the server can be reached."""
        for pause in Backoff():
            try:
                async with asyncio.timeout(deadline.remaining):
                    return await self._bell.listen(bell)
            except LogUnavailable:
                if deadline.remaining < pause:
                    raise
            except TimeoutError:
                raise LogUnavailable(f"{self._client.name} does not answer") from None
            await asyncio.sleep(pause)
        raise AssertionError("a backoff has no end")

    async def _topic_at(self, position: Position) -> Topic:
        """The topic, if the position is of its present incarnation."""
        deadline = Deadline(READ_PATIENCE_S)
        topic = await self._topics.known(position.topic, deadline)
        if topic.incarnation != position.incarnation:
            topic = await self._topics.find(position.topic, deadline)
        check_partition(position.topic, topic.partitions, position.partition)
        if topic.incarnation != position.incarnation:
            raise other_incarnation(position.topic, position.partition, position.incarnation, topic.incarnation)
        return topic

    async def _misplaced(self, position: Position, reply: Sequence[bytes | int], waits: bool) -> DynlogError:
        """Why a read at that position found nothing to read."""
        name, incarnation, partition, offset = position
        if reply[0] == b"LOW":
            return truncated(name, partition, offset, int(reply[1]))
        if reply[0] == b"HIGH":
            return beyond_end(name, partition, offset, int(reply[1]))
        try:
            topic = await self._topics.find(name, Deadline(READ_PATIENCE_S))
        except (TopicNotFound, LogDiverged) as error:
            return gone(name, partition, incarnation) if waits else error
        if topic.incarnation != incarnation:
            return other_incarnation(name, partition, incarnation, topic.incarnation)
        return LogUnavailable(
            "the topic is being deleted, or a key was deleted by hand", topic=name, partition=partition
        )
