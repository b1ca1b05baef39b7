"""Moves a stream's messages into its topic: in order, each once, in appends as large as the log takes.

One append is under way while the next is being read; more than that is never in memory.  Where to go on is found in
the topic itself; the journal is only told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from xxhash import xxh3_64_intdigest

from dynlog.adapters.nats.streams import StreamInfo, StreamMessage, read_stream, stream_info
from dynlog.codec import MAX_RECORDS, check_record, encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import MalformedRecord, SourceChanged
from dynlog.migrations.mirror.path import PATH, has_been, path_of_headers, stream_place, topic_place
from dynlog.migrations.nats.contract import Item, Refusal, Run
from dynlog.migrations.nats.origin import last_sequences, record_of
from dynlog.migrations.nats.spread import Spread
from dynlog.migrations.nats.telling import Telling, told_before
from dynlog.producer import PAYLOAD_OVERHEAD
from dynlog.record import Record
from dynlog.topics import Topic

ROUNDS = 10
"""So often at most what was published meanwhile is fetched as well: a stream that is never quiet needs a mirror."""
JOURNAL_BYTES = 16 << 20
PER_MESSAGE = 128
"""An empty message counts as much, so that a stretch of tiny ones ends, too."""
JOURNAL_S = 5.0
"""Nor does the status of a copy that is under way, or was stopped, lag behind by more than this."""

T = TypeVar("T")


@dataclass(slots=True)
class Chunk:
    """What is appended at once, by partition; ``last`` is the sequence up to which the stream was read for it.

    ``sum`` is the sum of XXH3-64 of the messages' data, seeded with their sequences, so that no boundary matters.
    """

    last: int
    first: int = 0
    records: dict[int, list[Record]] = field(default_factory=dict)
    seen: int = 0
    already: int = 0
    bytes: int = 0
    size: int = 0
    sum: int = 0


@dataclass(slots=True)
class Copied:
    """What a copy did, in messages and the bytes of their data."""

    moved: int = 0
    already: int = 0
    bytes: int = 0


class StreamCopy:
    """One stream on its way into one topic."""

    def __init__(self, item: Item, run: Run, topic: Topic, spread: Spread, info: StreamInfo) -> None:
        self._item, self._run, self._topic, self._spread, self._info = item, run, topic, spread, info
        self._judge = Judge(info, topic, run.log.capabilities.max_batch_bytes)
        self._policy = DeliveryPolicy()
        self._stretch, self._told = Chunk(0), time.monotonic()
        self._telling = Telling(item, run, topic)
        self.done = Copied()

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What was not moved, by name."""
        return self._telling.refused.all()

    async def run(self) -> None:
        """Moves what is not there yet, and what comes meanwhile; raises what stands in the way of all."""
        there, first = await self._start()
        for _ in range(ROUNDS):
            if self._info.last_seq < first:
                break
            await self._copy(first, self._info.last_seq, there)
            first = self._info.last_seq + 1
            info = await stream_info(self._run.server, self._info.name)
            if info.created != self._info.created:
                raise SourceChanged(f"stream {info.name!r} was deleted and made anew meanwhile: plan again")
            self._info = info

    async def _start(self) -> tuple[dict[int, int], int]:
        """Per partition the last sequence that is there, and the first one to be read: all below is dealt with."""
        there = await last_sequences(self._run.log, self._topic.name, stream_place(self._info))
        stretches = self._telling.earlier()
        journaled = max((line.source_seq for line in stretches), default=0)
        for state in await self._run.log.partitions(self._topic.name):
            if state.earliest > 0:  # retention or a truncation may have taken all that was there
                there.setdefault(state.partition, journaled)
        # A partition may have got nothing for long: only the journal knows that there was nothing for it.
        first = min(journaled, max(there.values(), default=0)) + 1
        self.done.already = told_before(first, stretches, "messages")
        return there, first

    async def _copy(self, first: int, last: int, there: Mapping[int, int]) -> None:
        async with aclosing(self._chunks(first, last, there)) as chunks, aclosing(ahead(chunks)) as made:
            async for chunk in made:
                await self._run.limits.pay(chunk.bytes)
                for partition, records in chunk.records.items():
                    await deliver(self._run.log, self._topic.name, partition, records, self._policy)
                self._count(chunk)
                late = time.monotonic() - self._told >= JOURNAL_S
                if late or self._stretch.bytes + PER_MESSAGE * self._stretch.seen >= JOURNAL_BYTES:
                    await self._tell()
        await self._tell()

    def _count(self, chunk: Chunk) -> None:
        done, stretch = self.done, self._stretch
        done.already += chunk.already
        done.moved += chunk.seen - chunk.already
        done.bytes += chunk.bytes
        stretch.first = stretch.first or chunk.first
        stretch.last = chunk.last
        stretch.seen += chunk.seen
        stretch.bytes += chunk.size
        stretch.sum += chunk.sum
        self._run.progress(self._item, done.moved + done.already, done.bytes)

    async def _tell(self) -> None:
        """Tells the journal of the stretch that is in the topic."""
        stretch, self._stretch, self._told = self._stretch, Chunk(0), time.monotonic()
        if stretch.seen:
            await self._telling.moved(
                stretch.first, stretch.last, self._topic.name, stretch.bytes, stretch.sum, messages=stretch.seen
            )

    async def _chunks(self, first: int, last: int, there: Mapping[int, int]) -> AsyncGenerator[Chunk, None]:
        limit = self._judge.limit
        chunk, total = Chunk(first - 1), 0
        sizes: dict[int, int] = {}
        async with aclosing(read_stream(self._run.server, self._info, first=first, last=last)) as messages:
            async for message in messages:
                record, bound, problem = self._judge(message)
                if record is None:
                    if problem:
                        name = message_name(self._info.name, message)
                        await self._telling.refuse(name, message.sequence, problem)
                    continue
                partition = self._spread(message)
                size = sizes.get(partition, 0) + bound
                if size > limit or total + bound > 2 * limit or chunk.seen == MAX_RECORDS:
                    yield chunk
                    chunk, total, size, sizes = Chunk(chunk.last), 0, bound, {}
                sizes[partition] = size
                total += bound
                sequence, data = message.sequence, message.data
                chunk.first = chunk.first or sequence
                chunk.last = sequence
                chunk.seen += 1
                chunk.size += len(data)
                chunk.sum += xxh3_64_intdigest(data, sequence)
                if sequence <= there.get(partition, 0):
                    chunk.already += 1
                else:
                    chunk.bytes += len(data)
                    chunk.records.setdefault(partition, []).append(record)
        chunk.last = last
        yield chunk


class Judge:
    """What a message becomes in a topic; the same for a plan, a copy and a check of it."""

    def __init__(self, info: StreamInfo, topic: Topic | None, max_batch_bytes: int) -> None:
        self._place = stream_place(info)
        self._target = topic_place(topic) if topic is not None else ""
        self.limit = max_batch_bytes - PAYLOAD_OVERHEAD

    def __call__(self, message: StreamMessage) -> tuple[Record | None, int, str]:
        """The record and a bound of its size, or why there is none; neither for a message that a mirror brought out of
        this very topic."""
        try:
            record = record_of(message, self._place)
            if message.headers:
                if PATH in message.headers and has_been(path_of_headers(record.headers), [self._target]):
                    return None, 0, ""
                check_record(record)
        except MalformedRecord as error:
            return None, 0, str(error)
        size = encoded_bound(record)
        if size > self.limit:
            why = (
                f"with what says where it was it is a record of {size} bytes, over the {self.limit} that one append of "
                f"this log takes: raise max_batch_bytes in the log's URL, or put the body ({len(message.data)} bytes) "
                "into an object store"
            )
            return None, 0, why
        return record, size, ""


def message_name(stream: str, message: StreamMessage) -> str:
    """How a message is named in reports."""
    return f"{stream} message {message.sequence} ({message.subject})"


async def ahead(chunks: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The chunks, the next one being made while one is worked on."""
    waiting = asyncio.ensure_future(anext(chunks, None))
    try:
        while (chunk := await waiting) is not None:
            waiting = asyncio.ensure_future(anext(chunks, None))
            yield chunk
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
