"""Compactions that meet each other, writers, and whoever opens the bucket meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynlog.errors import DeadlineExceeded, OffsetConflict
from dynlog.kv import Bucket, CompactionPolicy, open_kv
from dynlog.kv.pictures import FIRST, Place, behind, next_pictures
from dynlog.kv.records import MARKS, Barrier, Picture, Put
from dynlog.log import Log
from dynlog.topics import PartitionState
from tests.faulty import FaultyLog
from tests.kv.backend import NAME, contents, elsewhere
from tests.kv.facts import ListLog, seen


def test_a_picture_in_several_records_is_not_mixed_up_with_that_of_another_compaction() -> None:
    log = ListLog(1)
    log.append(Put("a", b"1"))
    first, second = log.end, log.end + 1
    log.append(Barrier())
    log.append(Barrier())
    log.append(next_pictures(log.fold, first, FIRST, 100, [b"theirs 1", b"theirs 2"])[0])
    place: Place | None = FIRST
    while place is not None:
        pictures = next_pictures(log.fold, second, place, 100, [b"ours 1", b"ours 2"])
        for picture in pictures:
            log.append(picture)
        if place == FIRST:
            assert log.folded_from(second).marks == [b"ours 1", b"ours 2"]
        place = behind(pictures[-1])
    fresh = log.folded_from(second)
    assert fresh.complete
    assert not fresh.malformed
    assert seen(fresh) == seen(log.fold)


async def test_no_two_compactions_begin_at_the_same_place(bucket: Bucket, log_url: str) -> None:
    await bucket.put("k", b"1")
    async with elsewhere(log_url) as other:
        done = await asyncio.gather(*(each.compact() for each in (bucket, bucket, other, other)))
    assert len({each.start for each in done}) == 4


async def test_what_others_do_not_count_as_complete_cuts_nothing_off(
    bucket: Bucket, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many compactions begin after ours that folds no longer know how far it had come."""
    await bucket.put("k", b"1")
    write, crowd = bucket.compactor._write_range, asyncio.Event()

    async def crowded(start: int, place: Place, *rest: Any) -> Any:
        if place != FIRST and not crowd.is_set():
            crowd.set()
            raise OffsetConflict(topic="", partition=0, expected=0, end=0)
        if crowd.is_set() and bucket.revision < start + 200:
            for n in range(1, 201):
                await log_append(start + n)
        return await write(start, place, *rest)

    async def log_append(start: int) -> None:
        bucket.compactor._writer._turn.release()
        await bucket.say(Picture(start, MARKS, "", "", False, b""))
        await bucket.compactor._writer._turn.acquire()

    monkeypatch.setattr(bucket.compactor, "_write_range", crowded)
    await bucket.compact()
    async with elsewhere(log_url) as other:
        assert await contents(other) == {"k": b"1"}


async def test_a_compaction_that_gets_on_elsewhere_is_left_alone_and_one_that_does_not_is_replaced(
    bucket: Bucket,
) -> None:
    for _ in range(20):
        await bucket.put("k", b"v")
    policy = CompactionPolicy(min_records=5)
    start = (await bucket.say(Barrier())).offset
    await bucket.say(Picture(start, MARKS, "", "", False, b""))
    assert await bucket.compactor.tidy(policy, 30) is None
    assert await bucket.compactor.tidy(policy, 30) is not None


async def test_a_put_that_meets_a_waiting_compaction_ends_in_its_time_and_can_be_cancelled(
    bucket: Bucket, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compaction waited for the put before it, whose task goes on at once: the turn is nobody's in that moment."""
    append, sent, go_on, compacted = log.append, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def held(*args: Any, **rest: Any) -> Any:
        sent.set()
        await go_on.wait()
        return await append(*args, **rest)

    async def compacting() -> None:
        async with bucket.compactor._writer.turn():
            await compacted.wait()

    async def putting() -> None:
        await bucket.put("a", b"1")
        with pytest.raises(DeadlineExceeded):
            await bucket.put("b", b"1", timeout=0.05)

    await bucket.put("registered", b"")
    monkeypatch.setattr(log, "append", held)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        put = group.create_task(putting())
        await sent.wait()
        group.create_task(compacting())
        go_on.set()
        await put
        cancelled = asyncio.create_task(bucket.put("c", b"1"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        compacted.set()
        await bucket.put("d", b"1")
    assert (await contents(bucket)).keys() == {"registered", "a", "d"}


class Overtaken(FaultyLog):
    """Whoever asks for the end of a partition hears it, and before it goes on the bucket is compacted."""

    def __init__(self, log: Log, compact: Any) -> None:
        super().__init__(log)
        self.compact = compact

    async def partitions(self, topic: str, **rest: Any) -> list[PartitionState]:
        found: list[PartitionState] = await self._log.partitions(topic, **rest)
        compact, self.compact = self.compact, None
        if compact is not None:
            await compact()
        return found


async def test_a_bucket_that_is_compacted_while_it_is_opened_is_opened(log: Log, bucket: Bucket) -> None:
    await bucket.put("k", b"1")
    async with open_kv(Overtaken(log, bucket.compact).log, compaction=None) as kv:
        assert await contents(await kv.bucket(NAME)) == {"k": b"1"}
        assert (await log.partitions("dynlog.kv." + NAME))[0].earliest > 0


async def test_pictures_that_lose_to_writers_grow_smaller_and_none_may_take_long(
    bucket: Bucket, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        await bucket.put(f"k{n:02}", b"v" * 50_000)
    append, tries, losing = log.append, [], 6

    async def lossy(
        topic: str, partition: int, records: Any, *, timeout: float, expect: int | None = None, **how: Any
    ) -> Any:
        nonlocal losing
        size = len(records[0].parts[-1])
        if expect is None or size < 10_000:
            return await append(topic, partition, records, expect=expect, timeout=timeout, **how)
        tries.append(size)
        assert timeout <= 15.0
        if losing:
            losing -= 1
            raise OffsetConflict(topic=topic, partition=partition, expected=expect, end=expect + 1)
        return await append(topic, partition, records, expect=expect, timeout=timeout, **how)

    monkeypatch.setattr(log, "append", lossy)
    assert (await bucket.compact()).conflicts == 6
    assert tries[0] > 400_000
    assert tries[6] < 60_000, "as small as one key lets it be"
    assert max(tries[7:]) > 400_000, "and as large as before once nobody is in the way"
