"""Writes a JetStream bucket's revisions into a dynlog bucket: in their order, each once, then what came meanwhile.

* **What somebody wrote into the new bucket is not overwritten** by an apply that comes after: the key is named.
* **Which revision became which** stands in the journal, and in the records' headers until a compaction drops them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest

from dynlog.adapters.nats.kv import KvBucketInfo
from dynlog.adapters.nats.messages import time_ns
from dynlog.adapters.nats.streams import read_stream, stream_info
from dynlog.batch import Position
from dynlog.codec import encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import ConfigurationError, MalformedRecord, SourceChanged
from dynlog.kv.records import Lapse, Picture, from_parts
from dynlog.log import Log
from dynlog.migrations.nats.contract import Item, Refusal, Run
from dynlog.migrations.nats.kv_entries import EntryRules, key_prefix
from dynlog.migrations.nats.stream_copy import ROUNDS, Copied, ahead
from dynlog.migrations.nats.telling import Telling, told_before
from dynlog.producer import PAYLOAD_OVERHEAD
from dynlog.record import Record
from dynlog.topics import Topic

MOST_RECORDS = 4096
"""So many are one line of the journal, which says where each of them lies."""


@dataclass(slots=True)
class There:
    """What a bucket's topic holds: the last revision that was moved, and the keys that others wrote."""

    last: int = 0
    others: set[str] = field(default_factory=set)
    compacted: bool = False


async def look_at_bucket(log: Log, topic: Topic, producers: tuple[str, str]) -> There:
    """Reads all of it."""
    there = There()
    (state,) = await log.partitions(topic.name)
    there.compacted = state.earliest > 0
    position = Position(topic.name, topic.incarnation, 0, state.earliest)
    while position.offset < state.end:
        batch = await log.read(position)
        own: set[int] = set()
        for run in batch.marks:
            if run.producer_id in producers:
                there.last = max(there.last, run.sequence + run.length - 1)
                own.update(range(run.start, run.start + run.length))
        for index, (key, parts) in enumerate(zip(batch.keys, batch.bodies, strict=True)):
            if index not in own:
                _note_others(there, key, parts)
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            break
    return there


def _note_others(there: There, key: bytes | None, parts: object) -> None:
    try:
        fact = from_parts(key, parts)  # type: ignore[arg-type]
    except MalformedRecord:
        return
    if isinstance(fact, Picture):
        there.compacted = True
    elif key is not None and not isinstance(fact, Lapse):
        there.others.add(key.decode())


@dataclass(slots=True)
class _Chunk:
    last: int
    first: int = 0
    records: list[Record] = field(default_factory=list)
    seen: int = 0
    bytes: int = 0
    sum: int = 0


class KvCopy:
    """One bucket on its way."""

    def __init__(self, item: Item, run: Run, topic: Topic, rules: EntryRules) -> None:
        self._item, self._run, self._topic, self._rules = item, run, topic, rules
        self._limit = run.log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
        self._there = There()
        self._telling = Telling(item, run, topic)
        self.done = Copied()

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What was not written, by name."""
        return self._telling.refused.all()

    async def run(self) -> None:
        """Writes what is not there yet, and what comes meanwhile; raises what stands in the way of all."""
        info = self._rules.bucket.info
        first = await self._start()
        if self._there.compacted and first <= info.last_seq:
            raise ConfigurationError(
                f"bucket {self._item.target!r} lives on in the log (it was compacted), so what {self._item.source!r} "
                f"got since revision {first - 1} could overwrite newer values and was not written"
            )
        for _ in range(ROUNDS):
            if info.last_seq < first:
                break
            await self._copy(first, info.last_seq)
            first = info.last_seq + 1
            created, info = info.created, await stream_info(self._run.server, info.name)
            if info.created != created:
                raise SourceChanged(f"bucket {self._item.source!r} was deleted and made anew meanwhile: plan again")

    async def _start(self) -> int:
        """The first revision that is to be read."""
        self._there = await look_at_bucket(self._run.log, self._topic, self._rules.producers)
        stretches = self._telling.earlier()
        first = max([self._there.last, *(line.source_seq for line in stretches)]) + 1
        self.done.already = told_before(first, stretches, "entries")
        return first

    async def _copy(self, first: int, last: int) -> None:
        async with aclosing(self._chunks(first, last)) as chunks, aclosing(ahead(chunks)) as made:
            async for chunk in made:
                await self._run.limits.pay(chunk.bytes)
                revisions = ""
                if chunk.records:
                    done = await deliver(self._run.log, self._topic.name, 0, chunk.records, DeliveryPolicy())
                    revisions = write_revisions(zip(map(_revision, chunk.records), done.offsets, strict=True))
                await self._tell(chunk, revisions)

    async def _tell(self, chunk: _Chunk, revisions: str) -> None:
        self.done.moved += chunk.seen
        self.done.bytes += chunk.bytes
        self._run.progress(self._item, self.done.moved + self.done.already, self.done.bytes)
        await self._telling.moved(
            chunk.first, chunk.last, self._item.target, chunk.bytes, chunk.sum,
            entries=chunk.seen, revisions=revisions,
        )  # fmt: skip

    async def _chunks(self, first: int, last: int) -> AsyncGenerator[_Chunk, None]:
        bucket, rules = self._rules.bucket, self._rules
        chunk, size = _Chunk(first - 1, first), 0
        now_ns, read_at = await server_time_ns(self._run, bucket), time.monotonic_ns()
        stream = read_stream(self._run.server, bucket.info, first=first, last=last, subject=f"{key_prefix(bucket)}>")
        async with aclosing(stream) as messages:
            async for message in messages:
                records, why = rules.write(message, now_ns + time.monotonic_ns() - read_at)
                if records and self._there.others and (key := (records[0].key or b"").decode()) in self._there.others:
                    records = ()
                    why = (
                        f"key {key!r} was written in the log, too, since: that value stays, and this one is not written"
                    )
                if why:
                    await self._telling.refuse(rules.name(rules.entry(message)), message.sequence, why)
                bound = sum(map(encoded_bound, records))
                if size + bound > self._limit or len(chunk.records) + len(records) > MOST_RECORDS:
                    yield chunk
                    chunk, size = _Chunk(chunk.last, chunk.last + 1), 0
                chunk.last = message.sequence
                if records:
                    chunk.records += records
                    chunk.seen += 1
                    chunk.bytes += len(message.data)
                    chunk.sum += xxh3_64_intdigest(message.data, message.sequence)
                    size += bound
        chunk.last = last
        yield chunk


def _revision(record: Record) -> int:
    return record.mark.sequence if record.mark is not None else 0


async def server_time_ns(run: Run, bucket: KvBucketInfo) -> int:
    """The NATS server's clock."""
    answer = await run.server.api(f"STREAM.INFO.{bucket.info.name}")
    try:
        return time_ns(answer["ts"])
    except (KeyError, TypeError, ValueError):
        # Servers before 2.10 do not say it.
        return time.time_ns()


def write_revisions(pairs: Iterator[tuple[int, int]]) -> str:
    """Which revision of the source became which here, as ``source@here`` or ``source+count@here``, with blanks between.

    A source revision of which two records were made has the first of them.
    """
    runs: list[list[int]] = []
    for source, here in pairs:
        if here < 0 or (runs and runs[-1][0] + runs[-1][2] - 1 == source):
            continue
        if runs and runs[-1][0] + runs[-1][2] == source and runs[-1][1] + runs[-1][2] == here:
            runs[-1][2] += 1
        else:
            runs.append([source, here, 1])
    return " ".join(f"{source}@{here}" if count == 1 else f"{source}+{count}@{here}" for source, here, count in runs)


def read_revision(revisions: str, source: int) -> int | None:
    """What that revision of the source became; None if it is not in there."""
    for run in revisions.split():
        which, _, here = run.partition("@")
        start, _, count = which.partition("+")
        if int(start) <= source < int(start) + int(count or 1):
            return int(here) + source - int(start)
    return None
