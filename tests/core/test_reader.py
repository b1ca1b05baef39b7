"""What a reader promises: every record once, in order, from where it was told."""

from __future__ import annotations

import asyncio
import random

import pytest

import dynlog
from dynlog import Log, Mark, Reader, Record
from dynlog.errors import Closed, OffsetTruncated


async def drain(reader: Reader, count: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    while len(seen) < count:
        batch = await reader.next(wait=5.0)
        assert batch is not None
        seen += [(stored.partition, stored.offset) for stored in batch]
    return seen


async def fill(log: Log, partition: int, count: int) -> None:
    await log.append("t", partition, [Record(parts=(b"%d" % i,)) for i in range(count)])


async def test_all_partitions_are_read_each_in_offset_order() -> None:
    async with dynlog.open_log("memory://") as log:
        await log.create_topic("t", partitions=3)
        for partition in range(3):
            await fill(log, partition, 100)
        async with await Reader.open(log, "t") as reader:
            seen = await drain(reader, 300)
            assert await reader.next(wait=0.01) is None
    assert sorted(seen) == [(p, o) for p in range(3) for o in range(100)]
    for partition in range(3):
        offsets = [o for p, o in seen if p == partition]
        assert offsets == sorted(offsets)


async def test_a_reader_at_the_end_gets_what_is_appended_next() -> None:
    async with dynlog.open_log("memory://") as log:
        await log.create_topic("t", partitions=2)
        await fill(log, 0, 5)
        async with await Reader.open(log, "t", "end") as reader:
            waiting = asyncio.create_task(reader.next(wait=30.0))
            await asyncio.wait([waiting], timeout=0.02)
            await fill(log, 1, 1)
            batch = await waiting
            assert batch is not None
            assert (batch.partition, list(batch.offsets)) == (1, [0])
            assert reader.positions[1].offset == 1


async def test_a_cancelled_next_loses_nothing() -> None:
    random_source = random.Random(5)
    async with dynlog.open_log("memory://") as log:
        await log.create_topic("t")
        async with await Reader.open(log, "t") as reader:
            seen: list[int] = []
            for i in range(60):
                await fill(log, 0, 3)
                for _ in range(4):
                    task = asyncio.create_task(reader.next(wait=0.001 if i % 2 else 0.5))
                    for _ in range(random_source.randrange(6)):
                        await asyncio.sleep(0)
                    task.cancel()
                    try:
                        batch = await task
                    except asyncio.CancelledError:
                        continue
                    if batch is not None:
                        seen += batch.offsets
            while len(seen) < 180:
                batch = await reader.next(wait=1.0)
                assert batch is not None
                seen += batch.offsets
    assert seen == list(range(180))


async def test_repeats_and_zombies_are_dropped_where_the_engine_cannot() -> None:
    async with dynlog.open_log("memory://?checks_marks=false") as log:
        assert not log.capabilities.checks_marks
        await log.create_topic("t")
        marks = [
            ("a", 0, 0),
            ("a", 0, 1),
            ("a", 0, 0),
            ("a", 1, 0),
            ("a", 0, 2),
            ("b", 0, 9),
            ("a", 1, 0),
            ("b", 0, 10),
        ]
        await log.append("t", 0, [Record(parts=(repr(m).encode(),), mark=Mark(*m)) for m in marks])
        await log.append("t", 0, [Record(parts=(b"unmarked",)), Record(parts=(b"unmarked",))])
        async with await Reader.open(log, "t") as reader:
            seen = await drain(reader, 7)
            assert await reader.next(wait=0.01) is None
            assert reader.positions[0].offset == 10
    assert [offset for _, offset in seen] == [0, 1, 3, 5, 7, 8, 9]


async def test_an_error_leaves_the_position_where_it_was() -> None:
    async with dynlog.open_log("memory://") as log:
        await log.create_topic("t")
        await fill(log, 0, 10)
        async with await Reader.open(log, "t") as reader:
            await log.truncate("t", 0, 5)
            with pytest.raises(OffsetTruncated) as caught:
                await reader.next(wait=1.0)
            assert caught.value.earliest == 5
            assert reader.positions[0].offset == 0


async def test_a_closed_reader_leaves_no_task_behind() -> None:
    async with dynlog.open_log("memory://") as log:
        await log.create_topic("t", partitions=4)
        before = asyncio.all_tasks()
        async with await Reader.open(log, "t") as reader:
            assert await reader.next(wait=0.01) is None
        assert asyncio.all_tasks() == before
        with pytest.raises(Closed):
            await reader.next(wait=0.0)
