"""A copy of a topic in another log: every record once, in order, in its partition, whenever the copying was killed.

* **Each copied record says where it comes from** (header `SOURCE`: source, offset, log time), so a copy that goes on
  begins behind the last one that is there, and group positions can be mapped to the new offsets.
* **A mark is kept where the target would take it for what it is**; a record without one, or one whose mark the target
  would take for a repeat (its producer counted anew after a day of silence), gets one made of source and offset.
* A copy never goes into a topic that holds anything else.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import xxhash

from dynlog.batch import Position, StoredRecord
from dynlog.codec import MAX_RECORDS, encoded_bound
from dynlog.dedupe import DedupeTable
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import BatchTooLarge, ConfigurationError, LogCorrupt, MalformedRecord, ProducerFenced
from dynlog.group_admin import HOLDER_PREFIX
from dynlog.group_topic import is_internal
from dynlog.log import Log
from dynlog.marks import MarkState, Verdict
from dynlog.producer import PAYLOAD_OVERHEAD
from dynlog.record import Mark, Record
from dynlog.topics import Topic

logger = logging.getLogger(__name__)
SOURCE = "dynlog-copied-from"
"""Header of a copied record: ``source/offset/log time in ms``."""
SOURCE_LABEL = "dynlog.copied-from"
BUCKET_LABEL = "dynlog.kv"
"""Label of a key-value bucket: its revisions are offsets, so it cannot be copied record by record."""


@dataclass(slots=True)
class Copied:
    """Outcome for one topic, in records; ``already`` were there from an earlier run."""

    topic: str
    copied: int = 0
    already: int = 0
    repeats: int = 0
    remarked: int = 0
    verified: int = 0
    groups: tuple[str, ...] = ()


class Origin(NamedTuple):
    """Where a copied record lay."""

    source: str
    offset: int
    log_time_ms: int


def origin_of(record: Record) -> Origin | None:
    """Where the record was copied from, or None."""
    try:
        source, offset, log_time = record.headers[SOURCE].decode().split("/")
        return Origin(source, int(offset), int(log_time))
    except (KeyError, ValueError):
        return None


def source_id(log: Log, topic: Topic) -> str:
    """Names the source's topic for ever."""
    return str(xxhash.xxh3_64_hexdigest(f"{log.identity}\0{topic.name}\0{topic.incarnation}".encode()))


async def topics_to_copy(source: Log, names: Sequence[str]) -> list[Topic]:
    """Those named, or all but what dynlog keeps for groups and, with a warning, buckets; raises TopicNotFound."""
    if names:
        return [await source.topic(name) for name in names]
    topics = [topic for topic in await source.topics() if not is_internal(topic)]
    if buckets := [topic.name for topic in topics if BUCKET_LABEL in topic.labels]:
        logger.warning("left out, since a key-value bucket cannot be copied as a log: %s", ", ".join(buckets))
    return [topic for topic in topics if BUCKET_LABEL not in topic.labels]


async def copy_topic(source: Log, target: Log, topic: Topic, told: Callable[[int], None]) -> Copied:
    """Copies what is not there yet, up to the ends of now; ``told`` hears how many records are through.

    Raises ConfigurationError if the target has a topic of that name that is not this copy.
    """
    if source.identity == target.identity:
        raise ConfigurationError("source and target are the same log")
    if BUCKET_LABEL in topic.labels:
        raise ConfigurationError(
            f"topic {topic.name!r} is a key-value bucket, whose revisions are offsets, and a copy has others: "
            "write its keys into a new bucket"
        )
    id = source_id(source, topic)
    copy = await target.create_topic(
        topic.name,
        partitions=topic.partitions,
        retention=topic.retention,
        labels={**topic.labels, SOURCE_LABEL: id},
        exist_ok=True,
    )
    if copy.labels.get(SOURCE_LABEL) != id:
        raise ConfigurationError(
            f"the target has a topic {topic.name!r} that is no copy of this one: nothing was copied into it; delete "
            "it, or copy other topics by name"
        )
    outcome = Copied(topic.name)
    for state in await source.partitions(topic.name):
        start = Position(topic.name, topic.incarnation, state.partition, state.earliest)
        await _copy_partition(source, target, copy, start, state.end, id, outcome, told)
    return outcome


async def _copy_partition(
    source: Log, target: Log, copy: Topic, start: Position, end: int, id: str, outcome: Copied,
    told: Callable[[int], None],
) -> None:  # fmt: skip
    there = await _last_origin(target, copy, start.partition, id)
    marks: dict[str, MarkState] = {}
    pending: list[Record] = []
    size, limit = 0, target.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
    async for stored in _records(source, start, end, outcome):
        record = _with_origin(stored, id, marks, outcome)
        if stored.offset <= there:
            outcome.already += 1
            continue
        bound = encoded_bound(record)
        if pending and (size + bound > limit or len(pending) == MAX_RECORDS):
            await _append(target, copy, start.partition, pending, outcome)
            told(outcome.already + outcome.copied)
            pending, size = [], 0
        pending.append(record)
        size += bound
    if pending:
        await _append(target, copy, start.partition, pending, outcome)
    told(outcome.already + outcome.copied)


async def _append(target: Log, copy: Topic, partition: int, records: list[Record], outcome: Copied) -> None:
    policy = DeliveryPolicy()
    lost: list[Record] = []
    try:
        done = await deliver(target, copy.name, partition, records, policy)
    except ProducerFenced:  # the target knows a newer epoch of one of these producers
        lost = records
    except (BatchTooLarge, MalformedRecord) as error:
        large = isinstance(error, BatchTooLarge)
        unfit = max(records, key=encoded_bound if large else lambda record: len(record.headers))
        raise BatchTooLarge(
            f"a record of the source cannot be copied, with the header that says where it comes from: {error}; all "
            "records of its partition before it were copied, or are in the same append",
            topic=copy.name, partition=partition, offset=_origin(unfit).offset,
        ) from None  # fmt: skip
    else:
        if done.duplicates:
            lost = await _missing(target, copy, partition, records)
    if lost:
        outcome.remarked += len(lost)
        # Not under the producer of the other marks of the copy: that may be past these records already.
        own = [replace(record, mark=_own_mark(record, partition, "copy-again")) for record in lost]
        await deliver(target, copy.name, partition, own, policy)
    outcome.copied += len(records)


async def _missing(target: Log, copy: Topic, partition: int, records: list[Record]) -> list[Record]:
    """Those that the target took for repeats of others: whoever produces into the copy already used their marks.

    What another copy that runs meanwhile has appended is there.
    """
    first = _origin(records[0])
    there: set[int] = set()
    async for found in _origins_backwards(target, copy, partition, first.source):
        there.update(found)
        # What came under another mark stands behind its place, but by no more than an append.
        if max(found) < first.offset and len(there) > MAX_RECORDS:
            break
    return [record for record in records if _origin(record).offset not in there]


def _origin(record: Record) -> Origin:
    origin = origin_of(record)
    assert origin is not None
    return origin


def _own_mark(record: Record, partition: int, producer: str = "copy") -> Mark:
    origin = _origin(record)
    return Mark(f"{producer}:{origin.source}:{partition}", 0, origin.offset)


def _with_origin(stored: StoredRecord, id: str, marks: dict[str, MarkState], outcome: Copied) -> Record:
    """The record as it is appended.  Goes through all records from the start, so that a resumed copy decides alike."""
    told = f"{id}/{stored.offset}/{stored.log_time_ms}".encode()
    record = replace(stored.record, headers={**stored.record.headers, SOURCE: told})
    mark = record.mark
    if mark is not None:
        state = marks.setdefault(mark.producer_id, MarkState(mark.epoch))
        if state.judge(mark.epoch, mark.sequence) is Verdict.NEW:
            state.epoch, state.last = mark.epoch, mark.sequence
            return record
        outcome.remarked += 1
    return replace(record, mark=_own_mark(record, stored.partition))


async def _records(log: Log, start: Position, end: int, outcome: Copied | None = None) -> AsyncIterator[StoredRecord]:
    """The records of a partition below ``end``, each once: what an engine cannot check is decided here."""
    table = None if log.capabilities.checks_marks else DedupeTable()
    position = start
    while position.offset < end:
        batch = await log.read(position)
        kept = batch if table is None else table.filter(batch)
        if outcome is not None:
            outcome.repeats += len(batch) - len(kept)
        for stored in kept:
            if stored.offset < end:
                yield stored
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            return


async def _last_origin(target: Log, copy: Topic, partition: int, id: str) -> int:
    """The source's offset of the last record that is there; -1 if none is."""
    async for found in _origins_backwards(target, copy, partition, id):
        return found[-1]
    return -1


async def _origins_backwards(target: Log, copy: Topic, partition: int, id: str) -> AsyncIterator[list[int]]:
    """The source's offsets of the records that are there: from the end backwards in ever larger pieces that have some,
    in order within each."""
    state = (await target.partitions(copy.name))[partition]
    step, upper = 1, state.end
    while upper > state.earliest:
        lower = max(upper - step, state.earliest)
        start = Position(copy.name, copy.incarnation, partition, lower)
        origins = [origin_of(stored.record) async for stored in _records(target, start, upper)]
        if found := [origin.offset for origin in origins if origin is not None and origin.source == id]:
            yield found
        step, upper = min(step * 8, MAX_RECORDS), lower


async def copy_groups(source: Log, target: Log, topic: Topic) -> tuple[str, ...]:
    """Lets every group of the source's topic go on in the copy where it stood; never back, if it went on there already.

    Returns the groups.
    """
    copy = await target.topic(topic.name)
    names = [s.holder.name for s in await source.holders(topic.name) if s.holder.name.startswith(HOLDER_PREFIX)]
    groups = [name.removeprefix(HOLDER_PREFIX) for name in names]
    id = source_id(source, topic)
    for group in groups:
        committed = (await source.committed(group, topic.name)).positions
        mapped = {p: await _mapped(target, copy, p, offset, id) for p, offset in committed.items()}
        known = (await target.committed(group, copy.name)).positions
        ahead = {p: max(offset, known.get(p, 0)) for p, offset in mapped.items()}
        if any(known.get(p) != offset for p, offset in ahead.items()):
            await target.open_generation(group, copy.name, {**known, **ahead})
    return tuple(groups)


async def _mapped(target: Log, copy: Topic, partition: int, offset: int, id: str) -> int:
    """The offset of the first copied record that lay at or after ``offset``; the end if there is none.  Bisects."""
    state = (await target.partitions(copy.name))[partition]
    low, high = state.earliest, state.end
    while low < high:
        middle = (low + high) // 2
        at, found = await _origin_from(target, Position(copy.name, copy.incarnation, partition, middle), high, id)
        if found is None or found >= offset:
            high = middle
        else:
            low = at + 1
    return low


async def _origin_from(target: Log, start: Position, end: int, id: str) -> tuple[int, int | None]:
    """The first copied record from there on: its offset and where it lay."""
    async for stored in _records(target, start, end):
        origin = origin_of(stored.record)
        if origin is not None and origin.source == id:
            return stored.offset, origin.offset
    return end, None


async def verify_copy(source: Log, target: Log, topic: Topic) -> int:
    """Reads both and compares record by record; returns how many agree.  Raises LogCorrupt at the first difference."""
    copy, id, agreed = await target.topic(topic.name), source_id(source, topic), 0
    for state in await source.partitions(topic.name):
        p = state.partition
        there = (await target.partitions(topic.name))[p]
        copies = _copies(target, Position(copy.name, copy.incarnation, p, there.earliest), there.end, id)
        last = await _last_origin(target, copy, p, id)
        start = Position(topic.name, topic.incarnation, p, state.earliest)
        async for stored in _records(source, start, last + 1):
            found = await anext(copies, None)
            while found is not None and found[0].offset < stored.offset:  # truncated in the source since
                found = await anext(copies, None)
            if found is None or found[0].offset != stored.offset or _content(found[1]) != _content(stored.record):
                raise LogCorrupt(
                    "the copy differs from the source", topic=topic.name, partition=p, offset=stored.offset
                )
            agreed += 1
    return agreed


async def _copies(target: Log, start: Position, end: int, id: str) -> AsyncIterator[tuple[Origin, Record]]:
    async for stored in _records(target, start, end):
        origin = origin_of(stored.record)
        if origin is not None and origin.source == id:
            yield origin, stored.record


def _content(record: Record) -> tuple[object, ...]:
    headers = {name: value for name, value in record.headers.items() if name != SOURCE}
    parts = tuple(bytes(part) for part in record.parts)
    return record.key, parts, headers, record.control, record.timestamp_ms
