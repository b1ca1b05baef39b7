"""The ingest loop: in order, bounded, refusals parked first, nothing behind a failure, and a stop that acknowledges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import pytest

from dynlog.errors import DynlogError, LogFull, MalformedEvent
from dynlog.ingest import IngestStats, ingest
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.kvevents import worker_key
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.topics import Appended

TOPIC = "kv"


@pytest.fixture
async def log() -> AsyncGenerator[Log, None]:
    async with open_log("memory://") as opened:
        await opened.create_topic(TOPIC)
        yield opened


def taken(sequence: int, *, size: int = 10, worker: int = 1) -> Taken:
    record = Record((b"x" * size,), worker_key(worker), mark=Mark(f"source-{worker}", 0, sequence))
    return Taken(record, events=2, blocks=3)


def refused(sequence: int, raw: bytes = b"bad") -> Refused:
    return Refused("file.jsonl", f"line {sequence}", "worker_id: is missing", raw, Mark("source-1", 0, sequence))


async def source_of(items: Iterable[Item | Exception]) -> AsyncGenerator[Item, None]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


async def endless(handed: list[int]) -> AsyncGenerator[Item, None]:
    sequence = 0
    while True:
        handed.append(sequence)
        yield taken(sequence, size=1000)
        sequence += 1
        await asyncio.sleep(0)


async def sequences(log: Log, topic: str = TOPIC) -> list[int]:
    found = []
    for state in await log.partitions(topic):
        position = await log.position(topic, state.partition)
        while position.offset < state.end:
            batch = await log.read(position)
            found += [stored.record.mark.sequence for stored in batch if stored.record.mark]
            position = batch.next_position
    return found


async def test_records_are_stored_in_order_and_acknowledged_in_order(log: Log) -> None:
    acknowledged: list[tuple[int, int]] = []
    items = [taken(n)._replace(on_stored=lambda p, o: acknowledged.append((p, o))) for n in range(100)]
    stats = await ingest(log, TOPIC, source_of(items))
    assert await sequences(log) == list(range(100))
    assert acknowledged == [(0, offset) for offset in range(100)]
    assert (stats.records, stats.events, stats.blocks, stats.rejected) == (100, 200, 300, 0)


async def test_a_second_run_changes_nothing_and_is_counted_as_repeats(log: Log) -> None:
    items: list[Item] = [*map(taken, range(50)), refused(50)]
    await ingest(log, TOPIC, source_of(items))
    stats = await ingest(log, TOPIC, source_of(items))
    assert await sequences(log) == list(range(50))
    assert await sequences(log, f"{TOPIC}.rejected") == [50]
    assert stats.repeats == 51


async def test_refused_input_is_parked_with_reason_place_and_digest_and_its_body_is_bounded(log: Log) -> None:
    stats = await ingest(log, TOPIC, source_of([taken(1), refused(2, b"y" * 100_000), taken(3)]))
    (parked,) = await log.read(await log.position(f"{TOPIC}.rejected", 0))
    assert parked.record.headers["reason"] == b"worker_id: is missing"
    assert parked.record.headers["source"] == b"file.jsonl"
    assert parked.record.headers["place"] == b"line 2"
    assert parked.record.headers["size"] == b"100000"
    assert len(parked.record.headers["sha256"]) == 64
    assert bytes(parked.record.parts[0]) == b"y" * 4096
    assert (stats.rejected, stats.records) == (1, 2)


async def test_notices_are_counted_by_kind(log: Log) -> None:
    notices = [
        Noticed(NoticeKind.GAP, "s", "", 5), Noticed(NoticeKind.GAP, "s", ""), Noticed(NoticeKind.CLEAR, "s", ""),
        Noticed(NoticeKind.DUPLICATE, "s", "", 3),
    ]  # fmt: skip
    counters = (await ingest(log, TOPIC, source_of(notices))).as_dict()
    assert (counters["gaps"], counters["missing"], counters["clears"], counters["duplicates"]) == (2, 6, 1, 3)


async def test_a_stop_acknowledges_everything_that_was_taken_and_returns(log: Log) -> None:
    handed: list[int] = []
    stop = asyncio.Event()

    def progress(stats: IngestStats) -> None:
        if stats.records > 20:
            stop.set()

    stats = await asyncio.wait_for(ingest(log, TOPIC, endless(handed), stop=stop, progress=progress), 10)
    stored = await sequences(log)
    assert stored == list(range(len(stored)))
    assert stats.records == len(stored)
    assert len(handed) - len(stored) <= 1


async def test_an_idle_source_ends_the_ingest_after_the_time_given(log: Log) -> None:
    async def quiet() -> AsyncGenerator[Item, None]:
        yield taken(1)
        await asyncio.Event().wait()

    stats = await asyncio.wait_for(ingest(log, TOPIC, quiet(), idle_s=0.05), 10)
    assert stats.records == 1


async def test_what_was_taken_before_the_source_failed_is_durable_when_its_error_is_raised(log: Log) -> None:
    with pytest.raises(MalformedEvent, match="breaks off"):
        await ingest(log, TOPIC, source_of([taken(1), taken(2), MalformedEvent("breaks off")]))
    assert await sequences(log) == [1, 2]


async def test_nothing_is_sent_behind_an_append_that_failed(log: Log) -> None:
    """The third append fails once; a log that went on behind it would hold a hole that no restart fills."""
    real, appends = log.append, 0

    async def append(topic: str, partition: int, records: Sequence[Record], **options: Any) -> Appended:
        nonlocal appends
        appends += 1
        if appends == 3:
            raise LogFull("no space", topic=topic, partition=partition)
        return await real(topic, partition, records, **options)

    log.append = append  # type: ignore[method-assign]
    handed: list[int] = []
    with pytest.raises(LogFull):
        await asyncio.wait_for(ingest(log, TOPIC, endless(handed)), 10)
    stored = await sequences(log)
    assert stored == list(range(len(stored)))
    assert appends == 3


async def test_the_source_waits_while_too_much_is_unacknowledged(log: Log) -> None:
    real, gate = log.append, asyncio.Event()
    stalled = asyncio.Event()

    async def append(topic: str, partition: int, records: Sequence[Record], **options: Any) -> Appended:
        stalled.set()
        await gate.wait()
        return await real(topic, partition, records, **options)

    log.append = append  # type: ignore[method-assign]
    handed: list[int] = []
    stop = asyncio.Event()
    running = asyncio.create_task(ingest(log, TOPIC, endless(handed), stop=stop, max_unacknowledged_bytes=10_000))
    await stalled.wait()
    for _ in range(200):
        await asyncio.sleep(0)
    waiting = len(handed)
    assert waiting < 15
    stop.set()
    gate.set()
    await running


async def test_a_cancelled_ingest_leaves_no_task_and_closes_its_source(log: Log) -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[Item, None]:
        try:
            yield taken(1)
            await asyncio.Event().wait()
        finally:
            closed.set()

    before = asyncio.all_tasks()
    running = asyncio.create_task(ingest(log, TOPIC, source()))
    await log.read(await log.position(TOPIC, 0), wait=10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert closed.is_set()
    assert asyncio.all_tasks() == before


async def test_records_of_many_workers_go_to_their_partitions(log: Log) -> None:
    await log.create_topic("wide", partitions=4)
    items = [taken(sequence, worker=worker) for sequence in range(10) for worker in range(20)]
    stats = await ingest(log, "wide", source_of(items))
    assert stats.records == 200
    assert sorted(await sequences(log, "wide")) == sorted(list(range(10)) * 20)
    assert sum(state.batches > 0 for state in await log.partitions("wide")) > 1


async def test_a_topic_that_does_not_exist_is_not_made_by_an_ingest(log: Log) -> None:
    with pytest.raises(DynlogError, match="nowhere"):
        await ingest(log, "nowhere", source_of([]))
