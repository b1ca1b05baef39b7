"""An append: judged for size, sent in its partition's lane, and told where it lies."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from dynlog.batch import Position
from dynlog.errors import BatchTooLarge, OffsetConflict, TopicNotFound
from dynlog.log import DEFAULT_READ_BYTES
from dynlog.record import Record
from dynlog.storage.kafka.care import Care
from dynlog.storage.kafka.fetches import Run
from dynlog.storage.kafka.lanes import Lanes
from dynlog.storage.kafka.messages import Message, messages_of
from dynlog.storage.kafka.reads import Reads
from dynlog.storage.kafka.topics import Found, Topics
from dynlog.storage.ledger import check_expect, check_partition
from dynlog.storage.repeats import is_repeat
from dynlog.timing import Deadline
from dynlog.topics import Appended


class Appends:
    """The appends of one log handle."""

    def __init__(self, topics: Topics, lanes: Lanes, reads: Reads, care: Care, max_batch_bytes: int) -> None:
        self._topics = topics
        self._lanes = lanes
        self._reads = reads
        self._care = care
        self._max_batch_bytes = max_batch_bytes

    async def append(
        self,
        name: str,
        partition: int,
        records: Sequence[Record],
        expect: int | None,
        deadline: Deadline,
        incarnation: str | None = None,
    ) -> Appended:
        """See `Log.append`; how the broker keeps to an incarnation: `dynlog.storage.kafka.lanes`."""
        check_expect(expect)
        found, fresh = self._topics.cached(name), False
        if (
            found is None
            or not 0 <= partition < found.info.partitions
            or (incarnation is not None and found.info.incarnation != incarnation)
        ):
            found, fresh = await self._topics.find(name, deadline, incarnation), True
        check_partition(name, found.info.partitions, partition)
        messages, size = messages_of(records, expect)
        if size > self._max_batch_bytes:
            raise BatchTooLarge(
                f"{len(records)} records are {size} bytes, over the {self._max_batch_bytes} that one append may have: "
                "nothing was stored; send fewer at once, or put large bodies into an object store",
                topic=name,
                partition=partition,
            )
        try:
            appended = await self._send(found, partition, messages, size, deadline, incarnation)
        except TopicNotFound:
            if fresh:
                raise
            # What was known of the topic is out of date: it was deleted, and may have been created anew.
            found = await self._topics.find(name, deadline, incarnation)
            check_partition(name, found.info.partitions, partition)
            appended = await self._send(found, partition, messages, size, deadline, incarnation)
        if expect is None or appended.offsets[0] == expect:
            return appended
        return await self._lost(found, partition, records, expect, appended, deadline)

    async def _lost(
        self, found: Found, partition: int, records: Sequence[Record], expect: int, void: Appended, deadline: Deadline
    ) -> Appended:
        """What to tell of messages that came elsewhere than expected: they are void, but may repeat what was stored."""
        position = Position(found.info.name, found.info.incarnation, partition, expect)
        read = functools.partial(self._reads.read, max_bytes=DEFAULT_READ_BYTES, wait=0.0)
        if await is_repeat(read, position, records, deadline):
            offsets = tuple(range(expect, expect + len(records)))
            return Appended(partition, offsets, void.end_offset, void.log_time_ms, len(records))
        raise OffsetConflict(topic=found.info.name, partition=partition, expected=expect, end=void.end_offset)

    async def _send(
        self,
        found: Found,
        partition: int,
        messages: Sequence[Message],
        size: int,
        deadline: Deadline,
        incarnation: str | None,
    ) -> Appended:
        only = None if incarnation is None else found.id
        base, log_time_ms = await self._lanes.append(found.kafka, partition, messages, size, deadline, only)
        end = base + len(messages)
        self._reads.sizes[found.id, partition].add(Run(base, end, log_time_ms, size))
        self._care.appended(found)
        return Appended(partition, tuple(range(base, end)), end, log_time_ms)
