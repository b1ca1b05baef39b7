"""Reading: what a fetch brought, record-exact, with holes (control, aborted, void and compacted records)
passed over.

The batches' CRCs are checked.  Records of a transaction that was aborted are left out, as Kafka's consumer does it with
``isolation.level=read_committed``; the end is the last stable offset.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import aiokafka.errors
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

from dynlog.errors import LogCorrupt, LogUnavailable, MalformedRecord
from dynlog.storage.kafka.cluster import Cluster
from dynlog.storage.kafka.failures import NotSent
from dynlog.storage.kafka.messages import ColumnsBuilder
from dynlog.storage.kafka.protocol import FetchRequest
from dynlog.storage.kafka.wires import Purpose
from dynlog.timing import Deadline

_LENGTH = struct.Struct(">i")
_BEFORE_LENGTH = 12
_MAGIC = 2


class Spot(NamedTuple):
    """A place in a topic's incarnation, by Kafka's name and id."""

    name: str
    topic_id: bytes
    partition: int
    offset: int


class Fetched(NamedTuple):
    """A partition's part of a fetch."""

    code: int
    end: int
    start: int
    aborted: Sequence[tuple[int, int]]
    records: bytes


class Run(NamedTuple):
    """A stored batch: offsets ``base <= o < next``, its log time and its bytes."""

    base: int
    next: int
    log_time_ms: int
    size: int


async def fetch(cluster: Cluster, spot: Spot, max_bytes: int, deadline: Deadline) -> Fetched:
    """What is there now; raises LogUnavailable if no leader answers (repeating it is harmless)."""
    node = await cluster.leader(spot.name, spot.partition, deadline)
    if node is None:
        raise NotSent("the partition has no leader now", topic=spot.name, partition=spot.partition)
    request = FetchRequest([spot[1:]], wait_ms=0, max_bytes=max_bytes, each_bytes=max_bytes)
    try:
        answer = await cluster.ask_node(node, Purpose.READ, request, deadline)
    except LogUnavailable:
        cluster.forget(spot.name)
        raise
    for _, _, found in parts_of(answer):
        return found
    raise NotSent(f"the broker answers a fetch with error {answer.error_code}", topic=spot.name)


def parts_of(answer: Any) -> Iterator[tuple[bytes, int, Fetched]]:
    """(topic id, partition, what was fetched) for each partition in an answer."""
    for topic_id, partitions, _ in answer.topics:
        for number, code, _, stable, start, aborted, _, records, _ in partitions:
            listed = [(producer, first) for producer, first, _ in aborted or ()]
            yield topic_id, number, Fetched(code, stable, start, listed, records or b"")


class Decoded(NamedTuple):
    """Records from the offset that was asked for on; ``next`` is where to read on, ``runs`` the batches seen."""

    builder: ColumnsBuilder
    next: int
    runs: list[Run]


def decode(spot: Spot, fetched: Fetched, max_records: int | None) -> Decoded:
    """Decodes; raises LogCorrupt for a batch whose checksum or structure is wrong, MalformedRecord for a refusal."""
    builder = ColumnsBuilder()
    runs: list[Run] = []
    at, place = spot.offset, 0
    aborted = sorted(fetched.aborted, key=lambda entry: entry[1])
    aborting: set[int] = set()
    batches = MemoryRecords(fetched.records)
    try:
        while batches.has_next():
            batch: Any = batches.next_batch()
            size = _LENGTH.unpack_from(fetched.records, place + 8)[0] + _BEFORE_LENGTH
            place += size
            if batch.magic < _MAGIC:
                raise MalformedRecord(
                    f"topic {spot.name!r}, partition {spot.partition}: the messages at offset {at} have the format of "
                    "Kafka before 0.11; copy them into a new topic with a Kafka client"
                )
            if not batch.validate_crc():
                raise LogCorrupt(
                    "a batch's checksum is wrong", topic=spot.name, partition=spot.partition, offset=batch.base_offset
                )
            while aborted and aborted[0][1] <= batch.base_offset:
                aborting.add(aborted.pop(0)[0])
            if batch.is_control_batch:
                if ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                    aborting.discard(batch.producer_id)
            elif not (batch.is_transactional and batch.producer_id in aborting):
                left_out = builder.take(batch, at, max_records)
                if left_out is not None:
                    return Decoded(builder, left_out, runs)
            runs.append(Run(batch.base_offset, batch.next_offset, batch.max_timestamp, size))
            at = max(at, batch.next_offset)
    except (aiokafka.errors.CorruptRecordException, StopIteration, ValueError) as error:
        raise LogCorrupt(
            f"a batch cannot be read: {error}", topic=spot.name, partition=spot.partition, offset=at
        ) from None
    return Decoded(builder, at, runs)
