"""Many processes on one log, for engines that declare it: they see, wake and fence each other as tasks do."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from dynlog.errors import CommitFenced, LogDiverged, OffsetTruncated
from dynlog.log import Log
from tests.conformance.backend import PATIENCE_S, TOPIC, LogBackend, bodies, bounds, eventually, fill, records, texts
from tests.conformance.log_suite_waiting import WAKE_S
from tests.conformance.other_process import other_process


class ProcessesSuite(LogBackend):
    async def test_the_engine_declares_that_many_processes_may_open_it(self, log: Log) -> None:
        assert log.capabilities.many_processes

    async def test_a_waiting_read_wakes_within_milliseconds_of_an_append_by_another_process(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC)
        late: list[float] = []
        async with other_process(log_url) as other:
            for number in range(15):
                reading = asyncio.create_task(
                    log.read(await log.position(TOPIC, 0, "end"), wait=PATIENCE_S)
                )  # fmt: skip
                await other.start("append", topic=TOPIC, partition=0, bodies=[f"r{number}"])
                batch = await reading
                woken = time.monotonic()
                acknowledged: float = (await other.outcome())["at"]
                assert texts(list(batch)) == [f"r{number}"]
                late.append(woken - acknowledged)
        assert statistics.median(late) < WAKE_S, late

    async def test_a_wait_ends_with_log_diverged_when_another_process_deletes_the_topic(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 2)
        position = await log.position(TOPIC, 0, "end")
        async with other_process(log_url) as other:
            reading = asyncio.create_task(log.read(position, wait=PATIENCE_S))
            await asyncio.sleep(0)
            await log.partitions(TOPIC)  # the read came first, so it has found the topic there, and waits
            await other.do("delete_topic", topic=TOPIC)
            async with asyncio.timeout(PATIENCE_S / 2):
                with pytest.raises(LogDiverged):
                    await reading

    async def test_appends_of_two_processes_never_mix_and_offsets_stay_dense(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        async with other_process(log_url) as other:
            await other.start("append_many", topic=TOPIC, prefix="theirs", count=100)
            mine = [(await log.append(TOPIC, 0, records(f"mine{n}", f"mine{n}"))).offsets for n in range(100)]
            theirs = [tuple(offsets) for offsets in (await other.outcome())["value"]]
        found = await bodies(log)
        assert sorted(mine + theirs) == [(n, n + 1) for n in range(0, 400, 2)]
        assert [found[first] for first, _ in mine] == [f"mine{n}" for n in range(100)]
        assert [found[first] for first, _ in theirs] == [f"theirs{n}" for n in range(100)]
        assert found[::2] == found[1::2]

    async def test_topics_truncations_epochs_and_generations_are_shared(self, log: Log, log_url: str) -> None:
        async with other_process(log_url) as other:
            incarnation = (await other.do("create_topic", topic=TOPIC))["value"]
            assert (await log.topic(TOPIC)).incarnation == incarnation
            position = await log.position(TOPIC, 0)
            await log.append(TOPIC, 0, records("a", "b", "c"))
            assert (await other.do("truncate", topic=TOPIC, before=2))["value"] == 2
            assert await bounds(log) == (2, 3)
            with pytest.raises(OffsetTruncated):
                await log.read(position)
            epochs = [await log.register_producer("p"), (await other.do("register_producer", producer="p"))["value"]]
            epochs.append(await log.register_producer("p"))
            assert epochs == sorted(set(epochs))
            mine = await log.open_generation("g", TOPIC)
            theirs = (await other.do("open_generation", group="g", topic=TOPIC))["value"]
            assert theirs > mine
            with pytest.raises(CommitFenced):
                await log.commit("g", TOPIC, {0: 3}, generation=mine)
            await log.commit("g", TOPIC, {0: 3}, generation=theirs)

    async def test_a_process_that_is_killed_leaves_the_log_to_the_others(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with other_process(log_url) as other:
            await other.start("append_many", topic=TOPIC, prefix="theirs", count=100_000)

            async def they_write() -> bool:
                return (await bounds(log))[1] > 20

            await eventually(they_write, "the other process appends")
        async with asyncio.timeout(PATIENCE_S):
            end = (await log.append(TOPIC, 0, records("after the kill"))).offsets[0]
        found = await bodies(log)
        assert len(found) == end + 1
        assert found[1:end:2] == found[2:end:2]
