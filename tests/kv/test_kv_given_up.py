"""What becomes of writes whose answer is lost, of a bucket that is closed meanwhile, and of one that others reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from dynlog.errors import (
    BucketNotFound,
    Closed,
    DeadlineExceeded,
    DynlogError,
    LogCorrupt,
    LogFull,
    OffsetTruncated,
    OutcomeUnknown,
    TopicNotFound,
)
from dynlog.kv import Bucket, CompactionPolicy, KeyValue, Watch, open_kv, opening, store
from dynlog.kv.settings import LABEL
from dynlog.log import Log
from dynlog.open import open_log, open_objects
from dynlog.snapshots import SnapshotPolicy
from dynlog.timing import Deadline
from tests.conformance.backend import after_turns
from tests.faulty import Fault, FaultyLog
from tests.kv.backend import NAME, contents, elsewhere

TOPIC = "dynlog.kv." + NAME


class LostAnswer(FaultyLog):
    """The next registration is done, and its answer lost."""

    lose = False

    async def register_producer(self, producer_id: str, *, after: int | None = None, timeout: float = 30.0) -> int:
        done = await super().register_producer(producer_id, after=after, timeout=timeout)
        if self.lose:
            self.lose = False
            raise DeadlineExceeded("15 s passed before it was acknowledged: it may or may not be stored")
        return done


class Full(FaultyLog):
    """Full from the first append on whose answer is lost."""

    full = False

    async def _append(self, *append: Any, **options: Any) -> Any:
        if self.full:
            raise LogFull("no space is left")
        try:
            return await super()._append(*append, **options)
        except OutcomeUnknown:
            self.full = True
            raise


@asynccontextmanager
async def on(wrapped: FaultyLog, **options: Any) -> AsyncIterator[tuple[KeyValue, Bucket]]:
    """The bucket on that log, with one write behind it, so that the next one goes alone."""
    async with open_kv(wrapped.log, **{"compaction": None, **options}) as kv:
        bucket = await kv.create(NAME, exist_ok=True)
        await bucket.put("warm", b"")
        try:
            yield kv, bucket
        finally:
            wrapped.gate.set()


async def drained(watch: Watch) -> None:
    """Returns once nothing comes for a while."""
    while await watch.next(5):
        pass


# Answers that are lost


async def test_a_bucket_is_written_on_after_the_answer_to_the_rise_of_its_epoch_was_lost(log: Log) -> None:
    wrapped = LostAnswer(log)
    async with on(wrapped) as (_, bucket):
        wrapped.gate.clear()
        with pytest.raises(OutcomeUnknown):
            await bucket.put("k", b"1", timeout=0.05)
        wrapped.gate.set()
        wrapped.lose = True
        for value in (b"2", b"3"):
            await bucket.put("k", value, timeout=10)
        assert not wrapped.lose
        assert (await contents(bucket))["k"] == b"3"


async def test_a_full_log_after_a_try_that_may_be_stored_is_no_proof_that_nothing_was(log: Log) -> None:
    wrapped = Full(log)
    async with on(wrapped) as (_, bucket):
        wrapped.faults.append(Fault.GHOST)
        with pytest.raises(OutcomeUnknown):
            await bucket.create("k", b"late", timeout=5)
        wrapped.full = False
        await bucket.create("k", b"ours")
        for topic, partition, records in wrapped.ghosts:
            with pytest.raises(DynlogError):  # the epoch has risen
                await log.append(topic, partition, records)
        assert (await contents(bucket))["k"] == b"ours"


# Closing


async def test_what_waits_behind_a_put_that_hangs_is_told_by_the_close_and_never_written(
    log: Log, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CLOSE_S", 0.1)
    wrapped = FaultyLog(log)
    async with on(wrapped) as (kv, bucket):
        wrapped.gate.clear()
        first = asyncio.create_task(bucket.put("first", b"1"))
        await after_turns(5)
        second = asyncio.create_task(bucket.put("second", b"1"))
        await after_turns(5)
        await kv.close()
        wrapped.gate.set()
        async with asyncio.timeout(5):
            told = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(error) for error in told] == [OutcomeUnknown, Closed]
    async with elsewhere(log_url) as other:
        assert "second" not in await contents(other)


async def test_what_waits_behind_a_put_of_a_bucket_that_is_opened_again_is_told(log: Log) -> None:
    wrapped = FaultyLog(log)
    async with on(wrapped) as (kv, bucket):
        wrapped.gate.clear()
        puts = [asyncio.create_task(bucket.put("first", b"1"))]
        await after_turns(5)
        puts.append(asyncio.create_task(bucket.put("second", b"1")))
        await after_turns(5)
        bucket.follower.fail(LogCorrupt("a read met a bad checksum", topic=TOPIC))
        again = await kv.bucket(NAME)
        wrapped.gate.set()
        async with asyncio.timeout(5):
            told = await asyncio.gather(*puts, return_exceptions=True)
        assert all(isinstance(error, DynlogError) for error in told)
        assert "second" not in {entry.key for entry in await again.entries(linearizable=True)}


async def test_a_close_waits_until_what_is_stored_is_folded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, late = FaultyLog(log), asyncio.Event()
    async with on(wrapped) as (kv, bucket), open_kv(log, compaction=None) as theirs:
        other = await theirs.bucket(NAME)
        read = wrapped.read

        async def slow(*where: Any, **how: Any) -> Any:
            batch = await read(*where, **how)
            await late.wait()
            return batch

        monkeypatch.setattr(wrapped, "read", slow)
        revision = await other.put("theirs", b"")  # so that the next one cannot be folded before it is read
        put = asyncio.create_task(bucket.put("k", b"1"))
        await other.follower.reached(revision + 2, Deadline(5))
        closing = asyncio.create_task(kv.close())
        await after_turns(5)
        assert not closing.done()
        late.set()
        await closing
        assert await put == revision + 1


async def test_what_is_stored_and_not_folded_in_time_is_no_closed_of_the_close(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CLOSE_S", 0.1)
    wrapped, asked, never = FaultyLog(log), asyncio.Event(), asyncio.Event()
    async with on(wrapped) as (kv, bucket), open_kv(log, compaction=None) as theirs:
        other = await theirs.bucket(NAME)

        async def slow(*where: Any, **how: Any) -> Any:
            asked.set()
            await never.wait()

        monkeypatch.setattr(wrapped, "read", slow)
        await asked.wait()
        revision = await other.put("theirs", b"")
        put = asyncio.create_task(bucket.put("k", b"1"))
        await other.follower.reached(revision + 2, Deadline(5))
        await kv.close()
        with pytest.raises(OutcomeUnknown):
            await put
        assert await other.get("k") is not None


async def test_a_close_that_is_cancelled_ends_everything_and_tells_who_watches(log: Log) -> None:
    before = asyncio.all_tasks()
    wrapped = FaultyLog(log)
    async with on(wrapped) as (kv, bucket), bucket.watch() as watch:
        wrapped.gate.clear()
        put = asyncio.create_task(bucket.put("k", b"1"))
        await after_turns(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kv.close(), 0.1)
        with pytest.raises(OutcomeUnknown):
            await put
        wrapped.gate.set()
        await after_turns(5)
        assert asyncio.all_tasks() <= before
        assert await log.holders(TOPIC) == []
        with pytest.raises(Closed):
            await drained(watch)
        await kv.close()


# Following


async def test_a_rebuild_that_fails_by_a_defect_is_told_to_who_waits(
    bucket: Bucket, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bucket.watch() as watch:
        assert await watch.next(5)

        async def broken(*_: Any) -> Any:
            raise ValueError("a defect")

        async def truncated(*where: Any, **how: Any) -> Any:
            raise OffsetTruncated("", topic=TOPIC, partition=0, offset=0, earliest=1)

        monkeypatch.setattr(bucket.follower._opening, "run", broken)
        monkeypatch.setattr(log, "read", truncated)
        await bucket.put("k", b"1")
        with pytest.raises(DynlogError, match="a defect"):
            await drained(watch)


async def test_who_opened_a_bucket_hears_of_its_progress_and_not_of_later_rebuilds(log: Log, log_url: str) -> None:
    heard: list[tuple[int, int]] = []
    async with open_kv(log, compaction=None) as kv:
        await (await kv.create(NAME)).put("k", b"1")
    async with open_log(log_url) as again, open_kv(again, compaction=None) as kv:
        bucket = await kv.bucket(NAME, progress=lambda *at: heard.append(at))
        assert heard == [(1, 1)]
        await bucket.follower._rebuild("for a test")
        assert heard == [(1, 1)]


# A bucket that others deleted and created anew


@asynccontextmanager
async def reset(log: Log, **options: Any) -> AsyncIterator[tuple[KeyValue, Bucket, Bucket]]:
    """(the store, the bucket) of a process that was stopped, so to speak, while others reset the bucket, and theirs."""
    wrapped, awake = FaultyLog(log), asyncio.Event()
    async with on(wrapped, **options) as (kv, old), open_kv(log, compaction=None) as theirs:
        for n in range(20):
            await old.put("k", b"%d" % n)
        await old.compact()
        read = wrapped.read

        async def stopped(*where: Any, **how: Any) -> Any:
            await awake.wait()
            return await read(*where, **how)

        wrapped.read = stopped  # type: ignore[method-assign]
        await old.put("k", b"")
        await theirs.delete(NAME)
        new = await theirs.create(NAME)
        try:
            yield kv, old, new
        finally:
            awake.set()


async def test_a_compaction_cuts_nothing_off_a_later_bucket_of_its_name(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reset(log) as (_, old, new):
        for n in range(60):
            await new.put(f"k{n}", b"precious")
        await new.follower.hold()
        with monkeypatch.context() as patch:
            patch.setattr(old.follower, "hold", new.follower.hold)  # it was reset right after that
            with pytest.raises(TopicNotFound):
                await old.compactor.truncate(old.follower.fold.compacted, 10)
        with pytest.raises(BucketNotFound):
            await old.compact()
        assert (await log.partitions(TOPIC))[0].earliest == 0
        assert len(await contents(new)) == 60


async def test_a_write_is_not_stored_in_a_later_bucket_of_its_name(log: Log) -> None:
    async with reset(log) as (_, old, new):
        while new.revision + 1 < old.revision + 1:
            await new.put("filled", b"")
        for write in (old.create("k2", b"ours"), old.put("k", b"ours")):
            with pytest.raises(BucketNotFound):
                await write
        assert set(await contents(new)) == {"filled"}


async def test_a_bucket_that_failed_neither_holds_nor_pins_nor_compacts_a_later_one(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "HEARTBEAT_S", 0.02)
    quick = {"snapshots": SnapshotPolicy(every_s=0.05), "compaction": CompactionPolicy(every_s=0.05, min_records=1)}
    async with (
        open_objects(f"memory://{uuid4().hex}") as objects,
        open_kv(log, objects, **quick) as kv,  # type: ignore[arg-type]
        open_kv(log, compaction=None) as theirs,
    ):
        old = await kv.create(NAME)
        await old.put("k", b"1")
        await theirs.delete(NAME)
        new = await theirs.create(NAME)
        async with asyncio.timeout(10):
            while old.follower.failure is None:
                await old.follower.changes.beyond(old.follower.changes.count)
        for n in range(30):
            await new.put(f"k{n % 3}", b"%d" % n)
        await asyncio.sleep(0.3)  # six times what each of them waits
        names = {state.holder.name for state in await log.holders(TOPIC)}
        assert len(names) == 1, f"the new bucket's own and nobody else's: {names}"
        assert (await new.compact()).truncation.blocked_by == ()


# Time limits, and others' buckets


async def test_a_delete_that_waits_for_the_object_store_ends_in_its_time(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_objects(f"memory://{uuid4().hex}") as objects, open_kv(log, objects, compaction=None) as kv:
        bucket = await kv.create(NAME)
        await bucket.put("k", b"1")
        await bucket.snapshot()

        async def hangs(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(objects, "delete", hangs)
        async with asyncio.timeout(5):
            with pytest.raises(DeadlineExceeded, match="is deleted"):
                await kv.delete(NAME, timeout=0.2)


async def test_creating_a_bucket_that_is_there_opens_it_in_its_time_or_says_so(
    bucket: Bucket, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(log, "partitions", hangs)
    async with asyncio.timeout(5), open_kv(log, compaction=None) as kv:
        with pytest.raises(DeadlineExceeded):
            await kv.create(NAME, exist_ok=True, timeout=0.2)


async def test_a_bucket_of_a_newer_release_hides_no_other(bucket: Bucket, log: Log) -> None:
    await log.create_topic("dynlog.kv.newer", labels={LABEL: '{"version": 99}'})
    async with open_kv(log, compaction=None) as kv:
        assert [info.name for info in await kv.buckets()] == [NAME]
