"""Compares a stream with its topic, message by message: both are read again, and the journal is not."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo, read_stream
from dynlog.batch import Position
from dynlog.dedupe import DedupeTable
from dynlog.log import Log
from dynlog.migrations.mirror.inbound import producer_of
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.nats.contract import Difference
from dynlog.migrations.nats.origin import SOURCE_LABEL
from dynlog.migrations.nats.spread import Spread
from dynlog.migrations.nats.stream_copy import Judge, message_name
from dynlog.migrations.nats.targets import MOST_NAMED
from dynlog.record import Record
from dynlog.topics import Topic


async def compare_stream(
    server: NatsServer, info: StreamInfo, log: Log, topic: Topic, spread: Spread
) -> list[Difference]:
    """What of the stream is not in the topic as it should be; the first thousand by name, the rest counted.

    What retention took from either side since is no difference, and neither is what others wrote into the topic.
    """
    judge, found = Judge(info, topic, log.capabilities.max_batch_bytes), _Found(info.name)
    producer = producer_of(stream_place(info))
    async with AsyncExitStack() as stack:
        sides = []
        for state in await log.partitions(topic.name):
            start = Position(topic.name, topic.incarnation, state.partition, state.earliest)
            records = await stack.enter_async_context(aclosing(_moved(log, start, state.end, producer)))
            sides.append(await _Side.begin(records, truncated=state.earliest > 0))
        messages = await stack.enter_async_context(
            aclosing(read_stream(server, info, first=info.first_seq, last=info.last_seq))
        )
        async for message in messages:
            record, _, why = judge(message)
            if record is None:
                if why:
                    found.add(message_name(info.name, message), f"is not in the topic: {why}")
                continue
            match await sides[spread(message)].compare(message.sequence, record):
                case None:
                    found.missing(message.sequence)
                case "":
                    found.there()
                case problem:
                    found.add(message_name(info.name, message), problem)
    return found.all()


class _Side:
    """One partition's records of the stream, taken in order."""

    def __init__(self, records: AsyncGenerator[Record, None], first: Record | None, *, truncated: bool) -> None:
        self._records, self._next = records, first
        self._gone_below = 0 if not truncated else sys.maxsize if first is None else _sequence(first)

    @classmethod
    async def begin(cls, records: AsyncGenerator[Record, None], *, truncated: bool) -> _Side:
        """Finds the first record."""
        return cls(records, await anext(records, None), truncated=truncated)

    async def compare(self, sequence: int, expected: Record) -> str | None:
        """What is wrong with the record of that sequence, empty if nothing is; None if it is not there."""
        if sequence < self._gone_below:
            return ""
        while self._next is not None and _sequence(self._next) < sequence:  # the source has dropped it since
            await self._advance()
        if self._next is None or _sequence(self._next) > sequence:
            return None
        found = self._next
        await self._advance()
        if self._next is not None and _sequence(self._next) <= sequence:
            return f"sequence {_sequence(self._next)} stands behind it in the topic: doubled, or out of order"
        differing = [
            what
            for what in ("key", "parts", "headers", "timestamp_ms", "control")
            if _of(found, what) != _of(expected, what)
        ]
        return f"differs in {', '.join(differing)}" if differing else ""

    async def _advance(self) -> None:
        self._next = await anext(self._records, None)


class _Found:
    """Collects differences; neighbours that are missing are one."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._differences: list[Difference] = []
        self._more = 0
        self._run: tuple[int, int, int] | None = None

    def add(self, name: str, what: str) -> None:
        """One more."""
        self.there()
        if len(self._differences) < MOST_NAMED:
            self._differences.append(Difference(name=name, what=what))
        else:
            self._more += 1

    def missing(self, sequence: int) -> None:
        """The message is not in the topic."""
        first, _, count = self._run or (sequence, 0, 0)
        self._run = (first, sequence, count + 1)

    def there(self) -> None:
        """A message is in the topic, so that a stretch of missing ones ends before it."""
        if self._run is not None:
            (first, last, count), self._run = self._run, None
            which = f"message {first}" if count == 1 else f"messages {first} to {last}"
            self.add(
                f"{self._stream} {which}", f"{count} not in the topic: published since, or never moved; apply again"
            )

    def all(self) -> list[Difference]:
        """All of them."""
        self.there()
        more = [Difference(name=f"{self._more} more", what="only the first thousand are named")] if self._more else []
        return [*self._differences, *more]


def _sequence(record: Record) -> int:
    return record.mark.sequence if record.mark is not None else 0


def _of(record: Record, what: str) -> object:
    value = getattr(record, what)
    return b"".join(map(bytes, value)) if what == "parts" else dict(value) if what == "headers" else value


async def _moved(log: Log, position: Position, end: int, producer: str) -> AsyncGenerator[Record, None]:
    """The partition's records of that producer."""
    table = None if log.capabilities.checks_marks else DedupeTable()
    while position.offset < end:
        batch = await log.read(position)
        for stored in batch if table is None else table.filter(batch):
            mark = stored.record.mark
            if mark is not None and mark.producer_id == producer and stored.offset < end:
                yield stored.record
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            return


async def others_records(log: Log, topic: Topic) -> int:
    """How many records of the topic are not those of the stream that its label names."""
    own = producer_of(topic.labels.get(SOURCE_LABEL, "").partition(" ")[0])
    others = 0
    for state in await log.partitions(topic.name):
        position = Position(topic.name, topic.incarnation, state.partition, state.earliest)
        while position.offset < state.end:
            batch = await log.read(position)
            others += len(batch) - sum(run.length for run in batch.marks if run.producer_id == own)
            position = batch.next_position
            if batch.next_offset >= batch.end_offset:
                break
    return others
