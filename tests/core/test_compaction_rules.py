"""When a compaction does nothing, what it refuses, what it reports, and that it can be stopped anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from uuid import uuid4

import pytest

from dynlog.compaction import CHUNK_BYTES, CHUNK_RECORDS, Compaction, compact
from dynlog.errors import (
    BatchTooLarge,
    ConfigurationError,
    DeadlineExceeded,
    LogUnavailable,
    OutcomeUnknown,
    PartitionNotFound,
    TopicNotFound,
)
from dynlog.group_topic import make_group_topic
from dynlog.keeper import MOVED, MOVED_TIME, KeyedLatest, Moved, moved_from
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Control, Mark, Record
from dynlog.timing import SYSTEM_CLOCK, ManualClock
from dynlog.topics import Holder, HolderKind, Retention
from tests.conformance.backend import TOPIC, bodies, bounds, record, stored, texts
from tests.faulty import Fault, FaultyLog


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    async with open_log(f"memory://{uuid4().hex}") as log:
        await log.create_topic(TOPIC)
        yield log


async def write(log: Log, *pairs: tuple[str, str]) -> None:
    await log.append(TOPIC, 0, [record(body, key) if body else Record(key=key.encode()) for key, body in pairs])


async def rewrite(log: Log, keys: int, times: int) -> None:
    for turn in range(times):
        await write(log, *((f"k{key}", f"{key}/{turn}") for key in range(keys)))


def numbers(done: Compaction) -> tuple[bool, int, int, int, int]:
    return done.done, done.records, done.removable, done.moved, done.records_after


async def test_only_the_newest_record_of_each_key_is_left_and_no_tombstone(log: Log) -> None:
    await write(log, ("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", ""), ("d", ""))
    done = await compact(log, TOPIC)
    assert numbers(done) == (True, 6, 6, 2, 2)
    assert (await bodies(log), await bounds(log)) == (["2", "1"], (6, 8))
    assert (done.start, done.earliest, done.blocked_by, done.repeats) == (6, 6, (), False)
    assert done.dirty == pytest.approx(4 / 6)


async def test_what_it_takes_in_the_store_is_told_before_and_after(log: Log) -> None:
    await write(log, *(("a", "x" * 1000) for _ in range(10)))
    done = await compact(log, TOPIC)
    assert done.bytes > 10_000
    assert done.bytes_after == (await log.partitions(TOPIC))[0].bytes < 1_200


async def test_an_empty_value_is_a_value_and_no_tombstone(log: Log) -> None:
    await log.append(TOPIC, 0, [Record(key=b"a", parts=(b"x",)), Record(key=b"a", parts=(b"",))])
    await compact(log, TOPIC)
    assert [item.record.parts for item in await stored(log)] == [(b"",)]


async def test_a_moved_record_keeps_everything_but_its_mark_and_says_where_it_was_first(log: Log) -> None:
    full = Record((b"a", b"\0"), b"k", {"h": b"v"}, Control.DATA, 1234, Mark("p", 3, 7))
    await log.append(TOPIC, 0, [Record(key=b"k", parts=(b"old",)), full])
    (_, before) = await stored(log)
    for _ in range(2):
        await write(log, ("x", "1"), ("x", ""))
        await compact(log, TOPIC, force=True)
        (item,) = await stored(log)
        told = {MOVED: b"1", MOVED_TIME: b"%d" % before.log_time_ms}
        assert item.record == Record((b"a", b"\0"), b"k", {"h": b"v", **told}, Control.DATA, 1234)
        assert moved_from(item.record.headers) == Moved(1, before.log_time_ms)
        assert item.offset > 1


@pytest.mark.parametrize(("keys", "times", "compacts"), [(10, 2, True), (11, 1, False), (30, 1, False)])
async def test_below_the_dirty_ratio_nothing_happens_unless_it_is_forced(
    log: Log, keys: int, times: int, compacts: bool
) -> None:
    await rewrite(log, keys, times)
    await write(log, ("k0", "last"))
    before = await bounds(log)
    done = await compact(log, TOPIC)
    assert done.done is compacts
    if not compacts:
        assert await bounds(log) == before
        assert (await compact(log, TOPIC, min_dirty=0.01)).done is True


async def test_forced_it_goes_for_a_single_record_and_never_for_none(log: Log) -> None:
    await rewrite(log, 20, 1)
    await write(log, ("k0", "last"))
    assert numbers(await compact(log, TOPIC, force=True)) == (True, 21, 21, 20, 20)
    assert numbers(await compact(log, TOPIC, force=True)) == (False, 20, 20, 20, 20)
    assert (await bounds(log)) == (21, 41)


async def test_a_dry_run_says_what_would_be_and_changes_nothing(log: Log) -> None:
    await rewrite(log, 5, 4)
    before = await bounds(log)
    plan = await compact(log, TOPIC, dry_run=True)
    assert (plan.done, plan.removable, plan.moved, await bounds(log)) == (False, 20, 5, before)
    done = await compact(log, TOPIC)
    assert (done.removable, done.moved, done.dirty) == (plan.removable, plan.moved, plan.dirty)


async def test_an_empty_topic_is_compacted_already(log: Log) -> None:
    assert numbers(await compact(log, TOPIC, force=True)) == (False, 0, 0, 0, 0)


async def test_what_lies_from_the_slowest_holder_on_stays_as_it_is(log: Log) -> None:
    await rewrite(log, 4, 5)
    await write(log, ("k1", ""))
    await log.hold(TOPIC, Holder("slow", HolderKind.NAMED, {0: 18}))
    await log.hold(TOPIC, Holder("slower", HolderKind.NAMED, {0: 16}))
    held = [item for item in await stored(log) if item.offset >= 16]
    done = await compact(log, TOPIC)
    assert (done.done, done.blocked_by, done.start, done.earliest, done.moved) == (True, ("slow", "slower"), 16, 16, 0)
    assert (await stored(log))[:5] == held
    await log.hold(TOPIC, Holder("slower", HolderKind.NAMED, {0: 21}))
    await log.release(TOPIC, "slow")
    done = await compact(log, TOPIC, force=True)
    assert (done.blocked_by, await bodies(log)) == ((), ["0/4", "2/4", "3/4"])


async def test_a_holder_at_the_start_leaves_nothing_to_do_however_dirty_it_is(log: Log) -> None:
    await rewrite(log, 2, 10)
    await log.hold(TOPIC, Holder("stuck", HolderKind.PINNED, {0: 0}))
    done = await compact(log, TOPIC, force=True)
    assert (done.done, done.moved, done.blocked_by, await bounds(log)) == (False, 0, ("stuck",), (0, 20))


async def test_two_compactors_at_once_leave_the_newest_of_each_key_once_or_twice(log: Log) -> None:
    await rewrite(log, 3 * CHUNK_RECORDS, 2)
    await asyncio.gather(*(compact(log, TOPIC, force=True) for _ in range(2)))
    newest = {item.record.key: item.record.parts[0] for item in await stored(log)}
    assert newest == {b"k%d" % key: b"%d/1" % key for key in range(3 * CHUNK_RECORDS)}
    await compact(log, TOPIC, force=True)
    start, end = await bounds(log)
    assert end - start == 3 * CHUNK_RECORDS


async def test_records_are_moved_in_appends_that_stay_small(log: Log) -> None:
    sizes: list[tuple[int, int]] = []

    class Watched(FaultyLog):
        async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Any:
            sizes.append((len(records), sum(len(part) for record in records for part in record.parts)))
            return await log.append(topic, partition, records, **options)

    await rewrite(log, 2_500, 3)
    for key in range(5):
        await write(log, (f"large{key}", "x" * 200_000))
    await compact(Watched(log).log, TOPIC)
    assert sum(count for count, _ in sizes) == 2_505
    assert max(count for count, _ in sizes) == CHUNK_RECORDS
    assert max(size for _, size in sizes) <= CHUNK_BYTES
    assert len(sizes) <= 12


async def test_an_append_whose_outcome_nobody_knows_is_found_out_by_folding_on(log: Log) -> None:
    class Mumbling(FaultyLog):
        async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Any:
            fault = self.faults.popleft() if self.faults else None
            if fault is not Fault.LOST_UNSAID:
                await log.append(topic, partition, records, **options)
            if fault is not None:
                raise OutcomeUnknown("the connection broke", topic=topic, partition=partition)

    await rewrite(log, 2_500, 2)
    mumbling = Mumbling(log)
    mumbling.faults.extend([Fault.STORED_UNSAID, Fault.LOST_UNSAID, Fault.STORED_UNSAID])
    done = await compact(mumbling.log, TOPIC, force=True)
    assert done.records_after == len(await stored(log)) == 2_500


async def test_a_log_that_is_away_ends_the_compaction_and_the_next_one_completes_it(log: Log) -> None:
    class Away(FaultyLog):
        async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Any:
            if len(self.appends) == 1:
                raise LogUnavailable("the server is away", topic=topic, partition=partition)
            self.appends.append(len(records))
            return await log.append(topic, partition, records, **options)

    await rewrite(log, 2_500, 2)
    with pytest.raises(LogUnavailable):
        await compact(Away(log).log, TOPIC, force=True)
    assert await bounds(log) == (0, 5_000 + CHUNK_RECORDS)
    assert numbers(await compact(log, TOPIC, force=True)) == (True, 6_000, 6_000, 2_500, 2_500)


async def test_a_compaction_ends_at_its_deadline_and_leaves_no_task_behind(log: Log) -> None:
    class Endless(FaultyLog):
        async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Any:
            await log.append(TOPIC, 0, [record("another's", "k0")])  # somebody is always first
            return await log.append(topic, partition, records, **options)

    await rewrite(log, 5, 5)
    tasks = len(asyncio.all_tasks())
    with pytest.raises(DeadlineExceeded, match=TOPIC):
        await compact(Endless(log).log, TOPIC, timeout=0.3)
    assert len(asyncio.all_tasks()) == tasks
    assert set((await bodies(log))[25:]) == {"another's"}


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_a_compaction_may_be_cancelled_at_any_moment(log: Log, turns: int) -> None:
    await rewrite(log, 3, 4)
    task = asyncio.create_task(compact(log, TOPIC, force=True))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    newest = {item.record.key: item.record.parts[0] for item in await stored(log)}
    assert newest == {b"k%d" % key: b"%d/3" % key for key in range(3)}


async def test_progress_rises_to_what_it_says_will_be(log: Log) -> None:
    told: list[tuple[int, int]] = []
    await rewrite(log, 2_500, 4)
    await compact(log, TOPIC, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(done <= total for done, total in told)
    assert {total for done, total in told if done > 10_000} == {15_000}
    assert told[-1][0] == 15_000


# What is refused


async def test_records_without_a_key_are_refused_by_their_offset(log: Log) -> None:
    await log.append(TOPIC, 0, [record("a", "k"), record("b")])
    with pytest.raises(ConfigurationError, match="offset 1"):
        await compact(log, TOPIC, force=True)
    assert await bounds(log) == (0, 2)


async def test_a_topic_with_a_retention_is_not_compacted(log: Log) -> None:
    await log.create_topic("kept", retention=Retention(max_age_s=60))
    with pytest.raises(ConfigurationError, match="retention"):
        await compact(log, "kept")


async def test_a_topic_of_a_bucket_is_compacted_by_its_own_keeper_only(log: Log) -> None:
    await log.create_topic("dynlog.kv.b", labels={"dynlog.kv": "b"})
    await log.append("dynlog.kv.b", 0, [record("1", "k"), record("2", "k")])
    with pytest.raises(ConfigurationError, match="own keeper"):
        await compact(log, "dynlog.kv.b")
    assert (await compact(log, "dynlog.kv.b", keeper=lambda: KeyedLatest())).done


async def test_a_groups_own_topic_is_not_compacted(log: Log) -> None:
    group = await make_group_topic(log, await log.topic(TOPIC), "g")
    with pytest.raises(ConfigurationError, match="group"):
        await compact(log, group.name)


async def test_a_topic_or_partition_that_is_not_there_is_named(log: Log) -> None:
    with pytest.raises(TopicNotFound):
        await compact(log, "missing")
    for partition in (-1, 1):
        with pytest.raises(PartitionNotFound):
            await compact(log, TOPIC, partition)


async def test_a_record_that_fills_an_append_to_the_brim_is_named_as_the_obstacle() -> None:
    async with open_log("memory://?max_batch_bytes=1000") as log:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [Record(key=b"k", parts=(bytes(960),))])
        await log.append(TOPIC, 0, [record("1", "a"), record("2", "a"), record("3", "a")])
        with pytest.raises(BatchTooLarge, match="cannot be compacted while it is there"):
            await compact(log, TOPIC, force=True)


# Where marks are left to the reader


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SYSTEM_CLOCK.time_ms() - 3_600_000)


@pytest.fixture
async def lax(clock: ManualClock) -> AsyncIterator[Log]:
    """A log that checks no marks, an hour ago."""
    async with open_log("memory://?checks_marks=false", clock=clock) as log:
        await log.create_topic(TOPIC)
        yield log


def marked(sequence: int, key: str, body: str) -> Record:
    return Record(key=key.encode(), parts=(body.encode(),), mark=Mark("p", 1, sequence))


async def test_marked_records_stay_while_a_repeat_may_still_come(lax: Log, clock: ManualClock) -> None:
    await lax.append(TOPIC, 0, [marked(n, "a", str(n)) for n in range(6)])
    clock.advance(3_500)
    await lax.append(TOPIC, 0, [marked(n, "a", str(n)) for n in range(6, 9)])
    done = await compact(lax, TOPIC, force=True)
    assert (done.done, done.repeats, done.earliest, done.blocked_by) == (True, True, 6, ())
    assert await bodies(lax) == ["6", "7", "8"]
    done = await compact(lax, TOPIC, force=True, repeats_s=0)
    assert (done.repeats, await bodies(lax)) == (False, ["8"])


async def test_records_without_marks_wait_for_no_repeat(lax: Log, clock: ManualClock) -> None:
    await lax.append(TOPIC, 0, [marked(0, "a", "0")])
    clock.advance(3_590)
    await write(lax, ("a", "1"), ("a", "2"))
    done = await compact(lax, TOPIC, force=True)
    assert (done.done, done.repeats, await bodies(lax)) == (True, False, ["2"])


async def test_what_was_dropped_behind_a_slow_holder_keeps_the_log_from_beginning_below_it(lax: Log) -> None:
    again = marked(0, "a", "old")
    await lax.append(TOPIC, 0, [again, marked(1, "a", "new"), record("x", "b"), record("y", "b"), again])
    await lax.hold(TOPIC, Holder("slow", HolderKind.NAMED, {0: 3}))
    done = await compact(lax, TOPIC, force=True, repeats_s=0)
    assert (done.done, done.repeats, done.blocked_by, await bounds(lax)) == (False, True, ("slow",), (0, 5))
    await lax.release(TOPIC, "slow")
    assert (await compact(lax, TOPIC, force=True, repeats_s=0)).done
    assert texts(await stored(lax)) == ["new", "y"]


async def test_a_holder_that_comes_late_does_not_part_what_was_dropped_from_what_it_repeats(lax: Log) -> None:
    again = marked(0, "a", "old")

    class Late(FaultyLog):
        async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Any:
            await lax.hold(TOPIC, Holder("late", HolderKind.NAMED, {0: 2}))
            return await lax.append(topic, partition, records, **options)

    await lax.append(TOPIC, 0, [again, marked(1, "a", "new"), again])
    done = await compact(cast(Log, Late(lax)), TOPIC, force=True, repeats_s=0)
    assert (done.done, done.blocked_by, await bounds(lax)) == (False, ("late",), (0, 4))
