"""What only the memory log has: names shared within the process, threads, options, a bound on everything."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynlog.errors import ConfigurationError, LogFull, ProducerFenced, TopicNotFound
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Record
from dynlog.timing import ManualClock
from dynlog.topics import Retention
from tests.conformance.backend import TOPIC, bodies, fill, marked, numbered, record, records, texts


async def test_a_name_lives_while_at_least_one_handle_is_open() -> None:
    async with open_log("memory://name") as first:
        await fill(first, 2)
        async with open_log("memory://name") as second:
            await first.close()
            assert await bodies(second) == ["r0", "r1"]
            async with open_log("memory://name") as third:
                assert third.identity == first.identity
    async with open_log("memory://name") as anew:
        assert anew.identity != first.identity
        with pytest.raises(TopicNotFound):
            await anew.topic(TOPIC)


def test_event_loops_in_several_threads_share_a_log_and_wake_each_other() -> None:
    total, writers = 300, 3

    async def follow() -> list[str]:
        async with open_log("memory://threads") as log:
            await log.create_topic(TOPIC, exist_ok=True)
            position, found = await log.position(TOPIC, 0), list[str]()
            while len(found) < total:
                batch = await log.read(position, wait=10)
                assert len(batch) > 0, "ten seconds without a wake-up"
                found += texts(list(batch))
                position = batch.next_position
            return found

    async def write(number: int) -> None:
        async with open_log("memory://threads") as log:
            await log.create_topic(TOPIC, exist_ok=True)
            for turn in range(total // writers):
                await log.append(TOPIC, 0, [record(f"{number}/{turn}")])

    async def keep_open() -> None:
        async with open_log("memory://threads"):
            with ThreadPoolExecutor(writers + 2) as threads:
                following = [threads.submit(asyncio.run, follow()) for _ in range(2)]
                writing = [threads.submit(asyncio.run, write(number)) for number in range(writers)]
                for done in writing:
                    done.result()
                one, other = (done.result() for done in following)
        assert one == other
        assert sorted(one) == sorted(f"{n}/{turn}" for n in range(writers) for turn in range(total // writers))

    asyncio.run(keep_open())


async def test_without_mark_checking_everything_is_stored_and_the_reader_decides() -> None:
    async with open_log("memory://?checks_marks=false") as log:
        assert not log.capabilities.checks_marks
        assert not log.capabilities.fences_at_registration
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        again = await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b", "c"))
        assert (again.offsets, again.duplicates) == ((2, 3, 4), 0)
        await log.append(TOPIC, 0, marked("p", 2, 0, "new epoch"))
        await log.append(TOPIC, 0, marked("p", 1, 3, "zombie"))
        assert await bodies(log) == ["a", "b", "a", "b", "c", "new epoch", "zombie"]
        async with await Reader.open(log, TOPIC) as reader:
            batch = await reader.next(5)
        assert batch is not None
        assert texts(list(batch)) == ["a", "b", "c", "new epoch"]
        assert await log.register_producer("p") == 3


async def test_epochs_given_out_are_above_those_that_foreign_sources_wrote() -> None:
    async with open_log("memory://") as log:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 7, 0, "a"))
        assert await log.register_producer("p") == 8
        with pytest.raises(ProducerFenced):
            await log.append(TOPIC, 0, marked("p", 7, 1, "b"))


async def test_a_full_log_refuses_and_truncation_makes_room() -> None:
    async with open_log("memory://?max_bytes=50000") as log:
        await log.create_topic(TOPIC)
        body = Record(parts=(bytes(10_000),))
        for _ in range(4):
            await log.append(TOPIC, 0, [body])
        with pytest.raises(LogFull, match="max_bytes"):
            await log.append(TOPIC, 0, [body])
        assert (await log.position(TOPIC, 0, "end")).offset == 4
        await log.append(TOPIC, 0, records("small ones still fit"))
        await log.truncate(TOPIC, 0, 2)
        await log.append(TOPIC, 0, [body])
        assert (await log.partitions(TOPIC))[0].bytes < 50_000


async def test_truncation_frees_what_lies_below_it_as_a_whole() -> None:
    async with open_log("memory://") as log:
        await log.create_topic(TOPIC)
        for _ in range(4):
            await log.append(TOPIC, 0, numbered(2))
        (full,) = await log.partitions(TOPIC)
        for before, left in ((1, 4), (4, 2), (7, 1), (8, 0)):
            await log.truncate(TOPIC, 0, before)
            (state,) = await log.partitions(TOPIC)
            assert (state.batches, state.bytes) == (left, full.bytes // 4 * left)


async def test_a_refused_append_spends_no_mark() -> None:
    async with open_log("memory://?max_bytes=1000") as log:
        await log.create_topic(TOPIC)
        with pytest.raises(LogFull):
            await log.append(TOPIC, 0, marked("p", 1, 0, "x" * 2000))
        appended = await log.append(TOPIC, 0, marked("p", 1, 0, "short"))
        assert (appended.offsets, appended.duplicates) == ((0,), 0)


async def test_a_full_log_takes_back_what_retention_no_longer_keeps() -> None:
    clock = ManualClock()
    async with open_log("memory://?max_bytes=50000", clock=clock) as log:
        await log.create_topic("old", retention=Retention(max_age_s=3600))
        await log.create_topic(TOPIC)
        for _ in range(4):
            await log.append("old", 0, [Record(parts=(bytes(10_000),))])
        clock.advance(7200)
        await log.append(TOPIC, 0, [Record(parts=(bytes(40_000),))])
        assert await bodies(log, "old") == []


async def test_what_a_caller_does_to_a_buffer_or_a_batch_changes_nothing_stored() -> None:
    async with open_log("memory://") as log:
        await log.create_topic(TOPIC, labels=(labels := {"a": "1"}))
        labels["a"] = "2"
        await log.append(TOPIC, 0, numbered(3))
        batch = await log.read(await log.position(TOPIC, 0))
        batch.columns.bodies[0][0] = b"changed"
        batch.columns.keys[1] = b"changed"
        assert await bodies(log) == ["r0", "r1", "r2"]
        assert dict((await log.topic(TOPIC)).labels) == {"a": "1"}


async def test_an_append_over_the_urls_bound_is_refused() -> None:
    async with open_log("memory://?max_batch_bytes=70000") as log:
        assert log.capabilities.max_batch_bytes == 70_000
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [Record(parts=(bytes(69_000),))])


@pytest.mark.parametrize(
    "url",
    [
        "memory://a/b",
        "memory://a:1",
        "memory://u@a",
        "memory://?checks_marks=no",
        "memory://?max_bytes=0",
        "memory://?x=1",
    ],
)
async def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with open_log(url):
            pass


async def test_other_options_than_those_of_an_open_name_are_refused_and_leaving_them_out_is_fine() -> None:
    async with open_log("memory://options?checks_marks=false"):
        with pytest.raises(ConfigurationError, match="checks_marks"):
            async with open_log("memory://options?checks_marks=true"):
                pass
        async with open_log("memory://options") as log:
            assert not log.capabilities.checks_marks


async def test_a_backup_says_why_there_is_none(tmp_path: Path) -> None:
    async with open_log("memory://") as log:
        with pytest.raises(ConfigurationError, match="sqlite"):
            await log.backup(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
