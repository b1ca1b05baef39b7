"""The append: one row per call, chained to the row before it, its marks judged in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynlog.codec import MarkRun, encode_records, encode_with_runs, seal
from dynlog.record import Record
from dynlog.storage.ledger import check_expect, check_partition, judge_append
from dynlog.storage.sqlite.rows import Part, place
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.topics import Appended


class Prepared(NamedTuple):
    """An append that passed every check that needs no log."""

    topic: str
    partition: int
    records: Sequence[Record]
    payload: bytes
    runs: list[MarkRun]
    max_bytes: int
    expect: int | None
    incarnation: str | None


def prepare(
    topic: str,
    partition: int,
    records: Sequence[Record],
    max_bytes: int,
    expect: int | None = None,
    incarnation: str | None = None,
) -> Prepared:
    """Encodes; raises MalformedRecord, BatchTooLarge, ConfigurationError."""
    check_expect(expect)
    payload, runs = encode_with_runs(records, max_bytes=max_bytes)
    return Prepared(topic, partition, records, payload, runs, max_bytes, expect, incarnation)


def append(tx: Transaction, new: Prepared, now_ms: int) -> Appended:
    """Stores what is new of the append; raises TopicNotFound, PartitionNotFound, ProducerFenced,
    OffsetConflict."""
    topic = tx.topic(new.topic, new.incarnation)
    partition = check_partition(new.topic, topic.topic.partitions, new.partition)
    part = tx.part(topic, partition)
    log_time_ms = max(now_ms, part.log_time_ms)
    producers = list({run.producer_id for run in new.runs})
    judged = judge_append(
        len(new.records),
        new.runs,
        tx.states(topic, partition, producers),
        tx.epochs(producers),
        base=part.end,
        log_time_ms=log_time_ms,
        topic=new.topic,
        partition=partition,
        expect=new.expect,
    )
    count = len(judged.kept)
    duplicates = len(new.records) - count
    if not count:
        return Appended(partition, judged.offsets, part.end, part.log_time_ms, duplicates)
    payload = new.payload
    if duplicates:
        payload = encode_records([new.records[i] for i in judged.kept], max_bytes=new.max_bytes)
    end = part.end + count
    frame = seal(payload, place(topic, partition, part.end, end, log_time_ms, part.written))
    tx.db.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
        (topic.id, partition, part.end, end, log_time_ms, part.written, frame),
    )
    tx.set_part(
        topic,
        partition,
        Part(
            part.earliest, end, log_time_ms, part.bytes + len(frame), part.batches + 1, part.written + len(frame),
            part.marks, part.holes, part.first,
        ),
    )  # fmt: skip
    for producer, state in judged.states.items():
        tx.set_state(topic, partition, producer, state)
    tx.advanced[topic.id, partition] = end
    return Appended(partition, judged.offsets, end, log_time_ms, duplicates)
