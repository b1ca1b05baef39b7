"""Dynamo's KV events as log records that no repetition doubles: from a snapshot's body, and from a stream's messages.

Marks come from the source alone (the attempt and a record's place in the snapshot; a message's sequence), and one
snapshot always makes the same records, so a migration that was killed appends the rest and nothing twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import xxhash

from dynlog.adapters.dynamo_json import decode_line
from dynlog.adapters.nats.streams import StreamMessage
from dynlog.codec import MAX_RECORDS, encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.kvevents import HEAD, Kind, KvEvent, encode_events
from dynlog.log import Log
from dynlog.partition import partition_of
from dynlog.record import Mark, Record

RECORD_BYTES = 256 << 10
APPEND_BYTES = 1 << 20
PAYLOAD_OVERHEAD = 64
PRODUCERS = "nats-router:"
"""What the producers' names of all records of a migrated router topic begin with."""
SEQUENCE = "nats-sequence"
"""Header of a record that was a message of the stream: its sequence there."""


def producer_of(stream: str, created: str) -> str:
    """The producer of a stream's events; another one if the stream was made anew."""
    return PRODUCERS + xxhash.xxh3_64_hexdigest(f"{stream}\0{created}".encode())


def snapshot_records(events: Iterable[KvEvent], producer: str) -> Iterator[Record]:
    """The events as records of one worker each, in an order that keeps each worker's."""
    groups: dict[int, tuple[list[KvEvent], int]] = {}
    sequence = 0

    def record(group: list[KvEvent]) -> Record:
        nonlocal sequence
        sequence += 1
        return encode_events(group, mark=Mark(producer, 0, sequence))

    for event in events:
        size = HEAD.size + len(event.block_hashes) + len(event.tokens_hashes)
        group, taken = groups.get(event.worker_id, ([], 0))
        if group and taken + size > RECORD_BYTES:
            yield record(group)
            group, taken = [], 0
        group.append(event)
        groups[event.worker_id] = (group, taken + size)
    for group, _ in groups.values():
        yield record(group)


def removal_records(workers: Sequence[int], producer: str) -> Iterator[Record]:
    """Records that say of workers that they are gone, with all that they held."""
    for number, worker in enumerate(workers, 1):
        yield encode_events([KvEvent(worker, Kind.WORKER_REMOVED)], mark=Mark(f"{producer}:gone", 0, number))


def message_record(message: StreamMessage, producer: str) -> Record:
    """The record of one RouterEvent of the stream; raises MalformedEvent naming the field that does not fit."""
    mark, time_ms = Mark(producer, 0, message.sequence), message.time_ns // 1_000_000
    record = encode_events([decode_line(message.data)], mark=mark, timestamp_ms=time_ms)
    return replace(record, headers={SEQUENCE: str(message.sequence).encode()})


class Appender:
    """Appends records to the partitions of their keys, in as few appends as bounds allow; memory holds one of each."""

    def __init__(self, log: Log, topic: str, partitions: int) -> None:
        self._log, self._topic = log, topic
        self._limit = min(APPEND_BYTES, log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD)
        self._waiting: list[deque[Record]] = [deque() for _ in range(partitions)]
        self._bytes = [0] * partitions
        self.stored = 0
        """Records that the log had not before."""

    async def add(self, record: Record) -> bool:
        """Takes a record; whether everything that was taken before it is durable now.  Raises what `deliver` raises."""
        partition = partition_of(record.key or b"", len(self._waiting))
        bound = encoded_bound(record)
        full = self._bytes[partition] + bound > self._limit or len(self._waiting[partition]) >= MAX_RECORDS
        if full:
            await self.flush()
        self._waiting[partition].append(record)
        self._bytes[partition] += bound
        return full

    async def flush(self) -> None:
        """Returns once everything that was taken is durable."""
        for partition, waiting in enumerate(self._waiting):
            if waiting:
                done = await deliver(self._log, self._topic, partition, list(waiting), DeliveryPolicy())
                self.stored += len(waiting) - done.duplicates
                waiting.clear()
                self._bytes[partition] = 0
