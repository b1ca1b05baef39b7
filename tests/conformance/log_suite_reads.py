"""Reads: record-exact from any offset, in order, bounded, and honest about where the end is."""

from __future__ import annotations

import asyncio
import os

import pytest

from dynlog.errors import OffsetTruncated, PartitionNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.timing import ManualClock
from tests.conformance.backend import TOPIC, LogBackend, bodies, fill, numbered, records, texts


class ReadsSuite(LogBackend):
    async def test_a_read_may_begin_at_every_offset_inside_an_append(self, log: Log) -> None:
        await fill(log, 7)
        await log.append(TOPIC, 0, records("r7", "r8"))
        for start in range(9):
            batch = await log.read(await log.position(TOPIC, 0, start))
            assert texts(list(batch)) == [f"r{n}" for n in range(start, 9)]
            assert list(batch.offsets) == list(range(start, 9))
            assert batch.next_offset == batch.end_offset == 9

    async def test_every_read_says_which_topic_incarnation_and_partition_it_is_of(self, log: Log) -> None:
        await fill(log, 2, partitions=2)
        await log.append(TOPIC, 1, records("x"))
        position = await log.position(TOPIC, 1)
        batch = await log.read(position)
        assert (batch.topic, batch.incarnation, batch.partition) == position[:3]
        assert batch.next_position == position._replace(offset=1)
        assert [item.partition for item in batch] == [1]

    async def test_append_boundaries_are_not_preserved_by_a_read(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        for number in range(5):
            await log.append(TOPIC, 0, numbered(2, f"{number}."))
        batch = await log.read(await log.position(TOPIC, 0, 1), max_records=4)
        assert texts(list(batch)) == ["0.1", "1.0", "1.1", "2.0"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
    async def test_max_records_bounds_a_read_and_next_offset_leads_on_without_gap_or_repeat(
        self, log: Log, limit: int
    ) -> None:
        await fill(log, 5)
        for number in range(5, 12, 2):
            await log.append(TOPIC, 0, numbered(2, f"{number}:"))
        whole = await bodies(log)
        found: list[str] = []
        position = await log.position(TOPIC, 0)
        while True:
            batch = await log.read(position, max_records=limit)
            assert len(batch) == min(limit, 13 - position.offset)
            assert batch.end_offset == 13
            found += texts(list(batch))
            position = batch.next_position
            if batch.next_offset == batch.end_offset:
                break
        assert found == whole

    async def test_max_bytes_bounds_a_read_about(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        for _ in range(40):
            await log.append(TOPIC, 0, [Record(parts=(os.urandom(10_000),))])
        batch = await log.read(await log.position(TOPIC, 0), max_bytes=100_000)
        assert 5 <= len(batch) <= 15
        assert batch.next_offset == len(batch) < batch.end_offset == 40

    async def test_a_read_returns_at_least_one_record_however_small_max_bytes(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        big = os.urandom(200_000)
        for _ in range(2):
            await log.append(TOPIC, 0, [Record(parts=(big,)), Record(parts=(b"small",))])
        for start in range(4):
            batch = await log.read(await log.position(TOPIC, 0, start), max_bytes=1)
            assert len(batch) >= 1
            assert batch.offsets[0] == start
            assert batch.bodies[0] == ([big], [b"small"])[start % 2]

    async def test_a_read_at_the_end_without_wait_is_empty_and_returns_at_once(self, log: Log) -> None:
        await fill(log, 2)
        async with asyncio.timeout(2):
            batch = await log.read(await log.position(TOPIC, 0, "end"), wait=0)
        assert (len(batch), list(batch), batch.next_offset, batch.end_offset) == (0, [], 2, 2)

    async def test_a_read_sees_what_another_client_was_acknowledged_before_if_the_engine_says_so(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC)
        async with open_log(log_url) as other:
            if not log.capabilities.reads_latest:
                return
            for number in range(100):
                position = await log.position(TOPIC, 0, number)
                await other.append(TOPIC, 0, records(f"r{number}"))
                batch = await log.read(position)
                assert (texts(list(batch)), batch.end_offset) == ([f"r{number}"], number + 1)

    async def test_an_empty_partition_has_its_end_at_zero(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        position = await log.position(TOPIC, 0)
        assert position == await log.position(TOPIC, 0, "end")
        batch = await log.read(position)
        assert (len(batch), batch.next_offset, batch.end_offset) == (0, 0, 0)

    async def test_positions_are_given_as_earliest_end_or_an_offset(self, log: Log) -> None:
        await fill(log, 6)
        await log.truncate(TOPIC, 0, 2)
        assert (await log.position(TOPIC, 0)).offset == 2
        assert (await log.position(TOPIC, 0, "earliest")).offset == 2
        assert (await log.position(TOPIC, 0, "end")).offset == 6
        assert (await log.position(TOPIC, 0, 4)).offset == 4
        assert (await log.position(TOPIC, 0)).incarnation == (await log.topic(TOPIC)).incarnation

    @pytest.mark.parametrize("partition", [-1, 1])
    async def test_a_read_of_a_partition_out_of_range_is_named(self, log: Log, partition: int) -> None:
        await fill(log, 2)
        position = (await log.position(TOPIC, 0))._replace(partition=partition)
        with pytest.raises(PartitionNotFound) as caught:
            await log.read(position)
        assert caught.value.partition == partition
        with pytest.raises(PartitionNotFound):
            await log.position(TOPIC, partition)
        with pytest.raises(PartitionNotFound):
            await log.offset_at(TOPIC, partition, 0)
        with pytest.raises(PartitionNotFound):
            await log.truncate(TOPIC, partition, 0)

    async def test_a_negative_offset_lies_below_the_start(self, log: Log) -> None:
        await fill(log, 2)
        with pytest.raises(OffsetTruncated) as caught:
            await log.read(await log.position(TOPIC, 0, -1))
        assert caught.value.earliest == 0

    async def test_offset_at_finds_the_first_record_at_or_after_a_log_time(
        self, timed: Log, clock: ManualClock
    ) -> None:
        if timed.capabilities.server_time:
            return  # the test cannot turn it
        await timed.create_topic(TOPIC)
        start = clock.time_ms()
        assert await timed.offset_at(TOPIC, 0, start) == 0
        for _ in range(4):
            await timed.append(TOPIC, 0, numbered(3))
            clock.advance(10)
        found = [await timed.offset_at(TOPIC, 0, start + ms) for ms in (-1, 0, 1, 10_000, 10_001, 30_000, 30_001)]
        assert found == [0, 0, 3, 3, 6, 9, 12]

    async def test_offset_at_never_lies_below_the_start(self, timed: Log) -> None:
        await fill(timed, 5)
        await timed.truncate(TOPIC, 0, 2)
        assert await timed.offset_at(TOPIC, 0, 0) == 2
        await timed.truncate(TOPIC, 0, 5)
        assert await timed.offset_at(TOPIC, 0, 0) == 5

    async def test_many_tasks_read_at_once_and_each_sees_everything(self, log: Log) -> None:
        await fill(log, 50)
        seen = await asyncio.gather(*(bodies(log) for _ in range(30)))
        assert all(found == seen[0] for found in seen)
        assert len(seen[0]) == 50

    async def test_a_reader_that_follows_writers_sees_each_record_once_in_order(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        total = 300
        found: list[str] = []

        async def write() -> None:
            for number in range(0, total, 3):
                await log.append(TOPIC, 0, records(*(f"r{number + i}" for i in range(3))))

        async def follow() -> None:
            position = await log.position(TOPIC, 0)
            while len(found) < total:
                batch = await log.read(position, wait=5, max_records=7)
                found.extend(texts(list(batch)))
                position = batch.next_position

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(follow())
            group.create_task(write())
        assert found == [f"r{number}" for number in range(total)]
