"""Append: all or nothing, next to each other, in order, at offsets that count up and are never reused."""

from __future__ import annotations

import asyncio
import os

import pytest

from dynlog.errors import BatchTooLarge, MalformedRecord, PartitionNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Control, Mark, Record
from dynlog.timing import ManualClock
from tests.conformance.backend import (
    TOPIC,
    LogBackend,
    bodies,
    bounds,
    fill,
    kept_alive,
    numbered,
    record,
    records,
    stored,
    texts,
)


class AppendSuite(LogBackend):
    async def test_what_is_read_is_what_was_appended_in_every_field(self, log: Log) -> None:
        given = [
            Record(),
            Record(parts=(b"",), key=b""),
            Record(parts=(b"a", b"", b"\x00\xff" * 500), key=b"k\x00"),
            Record(parts=(b"x",), headers={"ü": b"\x00", "empty": b""}, control=Control.END, timestamp_ms=-5),
            Record(parts=(b"y",), mark=Mark("p:1", 3, 17), timestamp_ms=1_700_000_000_123),
        ]
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, given)
        await log.append(TOPIC, 0, given[:2])
        found = [item.record for item in await stored(log)]
        assert found[:5] == given
        assert found[5:] == given[:2]

    async def test_a_buffer_may_be_reused_as_soon_as_the_append_returned(self, log: Log) -> None:
        buffer, headers = bytearray(b"before"), {"h": b"before"}
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [Record(parts=(memoryview(buffer),), headers=headers)])
        buffer[:], headers["h"] = b"after!", b"after!"
        (item,) = await stored(log)
        assert (bytes(item.record.parts[0]), dict(item.record.headers)) == (b"before", {"h": b"before"})

    async def test_offsets_count_up_from_zero_and_are_told_record_by_record(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        first = await log.append(TOPIC, 0, records("a", "b", "c"))
        second = await log.append(TOPIC, 0, records("d"))
        assert (first.partition, first.offsets, first.end_offset, first.duplicates) == (0, (0, 1, 2), 3, 0)
        assert (second.offsets, second.end_offset) == ((3,), 4)
        assert [item.offset for item in await stored(log)] == [0, 1, 2, 3]

    async def test_partitions_count_their_offsets_apart(self, log: Log) -> None:
        await log.create_topic(TOPIC, partitions=2)
        assert (await log.append(TOPIC, 0, numbered(3))).offsets == (0, 1, 2)
        assert (await log.append(TOPIC, 1, records("x"))).offsets == (0,)
        assert [(state.partition, state.earliest, state.end) for state in await log.partitions(TOPIC)] == [
            (0, 0, 3), (1, 0, 1),
        ]  # fmt: skip
        assert await bodies(log, TOPIC, 1) == ["x"]

    async def test_fifty_tasks_on_one_partition_leave_dense_offsets_and_whole_appends(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC)
        told: dict[int, str] = {}

        async def writer(handle: Log, number: int) -> None:
            for turn in range(4):
                names = [f"{number}/{turn}/{i}" for i in range(1 + (number + turn) % 3)]
                appended = await handle.append(TOPIC, 0, records(*names))
                start = appended.offsets[0]
                assert appended.offsets == tuple(range(start, start + len(names)))
                told.update(zip(appended.offsets, names, strict=True))

        async with open_log(log_url) as other, asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(writer((log, other)[number % 2], number))
        found = await stored(log)
        assert [item.offset for item in found] == list(range(len(told)))
        assert texts(found) == [told[offset] for offset in range(len(told))]
        mine = [name.split("/") for name in texts(found) if name.startswith("7/")]
        assert mine == sorted(mine)

    async def test_an_append_over_the_bound_is_refused_whole_and_stores_nothing(self, log: Log) -> None:
        await fill(log, 1)
        half = Record(parts=(os.urandom(log.capabilities.max_batch_bytes // 2),))
        with pytest.raises(BatchTooLarge):
            await log.append(TOPIC, 0, [record("small"), half, half])
        assert await bodies(log) == ["r0"]
        assert (await log.append(TOPIC, 0, [record("next")])).offsets == (1,)

    async def test_an_append_just_below_the_bound_is_stored(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        body = os.urandom(log.capabilities.max_batch_bytes - 1000)
        await log.append(TOPIC, 0, [Record(parts=(body,))])
        assert [item.record.parts for item in await stored(log)] == [(body,)]

    async def test_an_append_of_no_records_is_malformed(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        with pytest.raises(MalformedRecord):
            await log.append(TOPIC, 0, [])

    async def test_one_malformed_record_keeps_the_whole_append_out(self, log: Log) -> None:
        await fill(log, 1)
        with pytest.raises(MalformedRecord):
            await log.append(TOPIC, 0, [record("good"), Record(parts=(b"x",), key="text")])  # type: ignore[arg-type]
        assert await bounds(log) == (0, 1)

    @pytest.mark.parametrize("partition", [-1, 2, 10_000])
    async def test_a_partition_out_of_range_is_named(self, log: Log, partition: int) -> None:
        await log.create_topic(TOPIC, partitions=2)
        with pytest.raises(PartitionNotFound) as caught:
            await log.append(TOPIC, partition, records("a"))
        assert (caught.value.topic, caught.value.partition) == (TOPIC, partition)

    async def test_log_time_is_the_engines_and_the_producers_time_is_kept_apart(
        self, timed: Log, clock: ManualClock
    ) -> None:
        await timed.create_topic(TOPIC)
        appended = await timed.append(TOPIC, 0, [Record(timestamp_ms=12)])
        (item,) = await stored(timed)
        assert appended.log_time_ms == item.log_time_ms
        assert timed.capabilities.server_time or item.log_time_ms == clock.time_ms()
        assert item.record.timestamp_ms == 12

    async def test_log_time_does_not_decrease_when_the_clock_jumps_back(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC)
        for jump in (10.0, -3600.0, 1.0, 7200.0, -1.0):
            await timed.append(TOPIC, 0, numbered(2))
            clock.advance(jump)
        times = [item.log_time_ms for item in await stored(timed)]
        assert times == sorted(times)
        assert (await timed.partitions(TOPIC))[0].last_log_time_ms == times[-1]

    async def test_log_time_does_not_decrease_over_a_reopening_with_an_older_clock(
        self, log_url: str, clock: ManualClock
    ) -> None:
        async with kept_alive(log_url, clock):
            async with open_log(log_url, clock=clock) as log:
                await log.create_topic(TOPIC)
                before = (await log.append(TOPIC, 0, records("a"))).log_time_ms
            clock.advance(-86_400.0)
            async with open_log(log_url, clock=clock) as log:
                assert (await log.append(TOPIC, 0, records("b"))).log_time_ms >= before

    async def test_an_acknowledged_append_is_seen_at_once_through_another_handle(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        async with open_log(log_url) as other:
            for number in range(20):
                await log.append(TOPIC, 0, [record(f"r{number}")])
                assert (await other.position(TOPIC, 0, "end")).offset == number + 1
                assert (await bodies(other))[-1] == f"r{number}"

    async def test_offsets_go_on_after_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            for turn in range(3):
                async with open_log(log_url) as log:
                    await log.create_topic(TOPIC, exist_ok=True)
                    assert (await log.append(TOPIC, 0, numbered(2))).offsets == (2 * turn, 2 * turn + 1)

    async def test_partition_state_counts_what_is_stored(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC)
        (empty,) = await timed.partitions(TOPIC)
        assert (empty.earliest, empty.end, empty.bytes, empty.batches) == (0, 0, 0, 0)
        for _ in range(3):
            await timed.append(TOPIC, 0, [Record(parts=(os.urandom(1000),))] * 2)
        (state,) = await timed.partitions(TOPIC)
        assert (state.partition, state.earliest, state.end) == (0, 0, 6)
        assert 6000 <= state.bytes <= 12_000
        assert state.batches >= 1
        assert timed.capabilities.server_time or state.last_log_time_ms == clock.time_ms()

    async def test_the_declared_capabilities_are_complete(self, log: Log, log_url: str) -> None:
        capabilities = log.capabilities
        assert capabilities.engine == log_url.split(":", 1)[0]
        assert str(capabilities.durability)
        assert capabilities.max_batch_bytes >= 1 << 16
        assert log.url == log_url
