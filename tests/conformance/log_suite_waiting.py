"""Waiting reads: woken within milliseconds, idle for nothing, and never left waiting for what cannot come."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from dynlog.batch import Batch, Position
from dynlog.errors import Closed, LogDiverged
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import (
    PATIENCE_S,
    TOPIC,
    LogBackend,
    after_turns,
    bounds,
    fill,
    marked,
    numbered,
    records,
    texts,
)

WAKE_S = 0.1
"""Ten times the milliseconds that the contract promises; this machine is shared."""


class WaitingSuite(LogBackend):
    async def test_a_waiting_read_wakes_for_an_append(self, log: Log, log_url: str) -> None:
        await fill(log, 2)
        async with open_log(log_url) as other:
            for writer in (log, other):
                reading = await _waiting(log, await log.position(TOPIC, 0, "end"))
                await writer.append(TOPIC, 0, records("new", "newer"))
                batch = await _soon(reading)
                assert texts(list(batch)) == ["new", "newer"]

    async def test_a_waiting_read_wakes_within_milliseconds(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        late: list[float] = []
        async with open_log(log_url) as other:
            for _ in range(15):
                reading = await _waiting(log, await log.position(TOPIC, 0, "end"))
                await other.append(TOPIC, 0, records("x"))
                acknowledged = time.monotonic()
                await _soon(reading)
                late.append(time.monotonic() - acknowledged)
        assert statistics.median(late) < WAKE_S, late

    async def test_every_one_of_many_waiting_reads_wakes(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        position = await log.position(TOPIC, 0)
        reads = [await _waiting(log, position) for _ in range(60)]
        await log.append(TOPIC, 0, records("all"))
        for batch in await asyncio.gather(*(_soon(reading) for reading in reads)):
            assert texts(list(batch)) == ["all"]

    async def test_a_wait_that_is_over_returns_an_empty_batch(self, log: Log) -> None:
        await fill(log, 1)
        started = time.monotonic()
        batch = await log.read(await log.position(TOPIC, 0, "end"), wait=0.2)
        assert 0.15 < time.monotonic() - started < 2
        assert (len(batch), batch.next_offset, batch.end_offset) == (0, 1, 1)

    async def test_waits_of_any_fraction_of_a_millisecond_end_without_an_error(self, log: Log) -> None:
        # uvloop's timers count whole milliseconds and so may fire before the time that was asked for.
        await fill(log, 1)
        end = await log.position(TOPIC, 0, "end")
        for step in range(20):
            assert len(await log.read(end, wait=0.003 + step * 0.0001)) == 0

    async def test_a_read_that_finds_something_does_not_wait(self, log: Log) -> None:
        await fill(log, 3)
        started = time.monotonic()
        assert len(await log.read(await log.position(TOPIC, 0, 2), wait=30)) == 1
        assert time.monotonic() - started < 2

    async def test_an_append_elsewhere_does_not_end_a_wait(self, log: Log) -> None:
        await fill(log, 1, partitions=2)
        await log.create_topic("other")
        reading = await _waiting(log, await log.position(TOPIC, 0, "end"))
        await log.append(TOPIC, 1, records("elsewhere"))
        await log.append("other", 0, records("elsewhere"))
        await after_turns(50)
        assert not reading.done()
        await log.append(TOPIC, 0, records("here"))
        assert texts(list(await _soon(reading))) == ["here"]

    async def test_a_repeat_that_stores_nothing_does_not_end_a_wait(self, log: Log) -> None:
        if not log.capabilities.checks_marks:
            return
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a"))
        reading = await _waiting(log, await log.position(TOPIC, 0, "end"))
        await log.append(TOPIC, 0, marked("p", 1, 0, "a"))
        await after_turns(50)
        assert not reading.done()
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        assert texts(list(await _soon(reading))) == ["b"]

    async def test_a_wait_at_the_end_goes_on_over_a_truncation_to_the_end(self, log: Log) -> None:
        await fill(log, 5)
        reading = await _waiting(log, await log.position(TOPIC, 0, "end"))
        await log.truncate(TOPIC, 0, 5)
        assert await bounds(log) == (5, 5)
        await after_turns(50)
        assert not reading.done()
        await log.append(TOPIC, 0, records("r5"))
        batch = await _soon(reading)
        assert (texts(list(batch)), list(batch.offsets)) == (["r5"], [5])

    @pytest.mark.parametrize("recreate", [False, True])
    async def test_a_wait_ends_with_log_diverged_when_the_topic_is_deleted(
        self, log: Log, log_url: str, recreate: bool
    ) -> None:
        async with open_log(log_url) as other:
            for deleter in (log, other):
                await log.create_topic(TOPIC)
                reading = await _waiting(log, await log.position(TOPIC, 0, "end"))
                await deleter.delete_topic(TOPIC)
                if recreate:
                    await deleter.create_topic(TOPIC)
                    await deleter.append(TOPIC, 0, numbered(3))
                with pytest.raises(LogDiverged):
                    await _soon(reading)
                if recreate:
                    await deleter.delete_topic(TOPIC)

    async def test_closing_wakes_waiting_reads_with_closed(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with open_log(log_url) as other:
            reads = [await _waiting(other, await other.position(TOPIC, 0, "end")) for _ in range(5)]
            await other.close()
            for reading in reads:
                with pytest.raises(Closed):
                    await _soon(reading)
        await log.append(TOPIC, 0, records("the other handle lives"))

    async def test_an_idle_wait_costs_next_to_nothing(self, log: Log) -> None:
        await fill(log, 1, partitions=4)
        positions = [await log.position(TOPIC, partition, "end") for partition in range(4)]
        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(log.read(position, wait=2) for position in positions))
        share = (time.process_time() - cpu) / (time.monotonic() - started)
        assert share < 0.05, f"four waiting reads took {share:.1%} of a core"


async def _waiting(log: Log, position: Position) -> asyncio.Task[Batch]:
    """A read that waits; given some turns of the loop (and of the engine's threads) to reach its wait."""
    reading = asyncio.create_task(log.read(position, wait=PATIENCE_S))
    await after_turns(5)
    await asyncio.sleep(0.01)  # not for correctness: most runs should see a read that waits, not one that begins
    assert not reading.done()
    return reading


async def _soon(reading: asyncio.Task[Batch]) -> Batch:
    async with asyncio.timeout(PATIENCE_S / 2):
        return await reading
