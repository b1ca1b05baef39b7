"""Compaction, snapshots, times to live and leases: what happens to a bucket by itself, and what of it stays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from dynlog.errors import StateUnrecoverable
from dynlog.kv import Bucket, BucketSettings, Changed, CompactionPolicy, Op, Verdict, open_kv
from dynlog.kv.records import MAX_KEY_BYTES, Beat, Expire, Grant, Revoke
from dynlog.kv.settings import value_limit
from dynlog.log import Log
from dynlog.objects import ObjectStore
from dynlog.open import open_objects
from dynlog.timing import Deadline, ManualClock
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import eventually
from tests.kv.backend import NAME, KvBackend, contents, elsewhere, known, said, take, until_ready

TOPIC = "dynlog.kv." + NAME


async def lived_in(bucket: Bucket, seed: int = 1) -> None:
    """A bucket in which something of everything has happened."""
    dice = random.Random(seed)
    await bucket.say(Grant("l1", 60_000, "me"))
    await bucket.say(Grant("l2", 60_000, "you"))
    for n in range(60):
        key = f"k{dice.randrange(12)}"
        match dice.randrange(4):
            case 0:
                await bucket.delete(key)
            case 1:
                await bucket.put(key, b"%d" % n, lease=dice.choice(["l1", "l2"]))
            case _:
                await bucket.put(key, b"%d" % n, ttl_s=dice.choice([None, 3600.0]))
    await bucket.say(Beat("p", ("l1", "l2")))
    await bucket.say(Revoke("l2"))


class CareSuite(KvBackend):
    async def test_a_compaction_changes_nothing_that_can_be_asked_and_cuts_off_what_is_below(
        self, log: Log, old: Bucket, log_url: str
    ) -> None:
        await lived_in(old)
        before = await known(old)
        done = await old.compact()
        assert done.truncation.earliest == done.start > 60
        assert await known(old) == before
        async with elsewhere(log_url) as other:
            assert other.status().started_from != "offset 0"
            assert await known(other) == before
            entry = (await other.entries())[0]
            await other.update(entry.key, b"updated", entry.revision)
        assert (await contents(old))[entry.key] == b"updated"
        assert (await old.compact()).truncation.earliest > done.start

    async def test_whoever_writes_during_a_compaction_is_never_overruled(self, old: Bucket, log_url: str) -> None:
        await lived_in(old)
        async with elsewhere(log_url) as other:
            going = True

            async def write(each: Bucket, seed: int) -> None:
                dice = random.Random(seed)
                while going:
                    key = f"k{dice.randrange(12)}"
                    await (each.put(key, b"w%d" % seed) if dice.random() < 0.7 else each.delete(key))
                    await asyncio.sleep(0.02)

            writers = [asyncio.create_task(write(each, seed)) for seed, each in enumerate((old, other))]
            first, second = await asyncio.gather(old.compact(), other.compact())
            going = False
            await asyncio.gather(*writers)
            assert await known(old) == await known(other)
            for each in (old, other):
                await each.follower.hold()
            latest = max(first.start, second.start)
            assert (await old.compactor.truncate(latest, 30)).earliest == latest
            async with elsewhere(log_url) as fresh:
                assert await known(fresh) == await known(old)

    async def test_what_is_written_between_two_pictures_of_one_range_has_them_written_anew(
        self, old: Bucket, log_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await lived_in(old)
        async with elsewhere(log_url) as other:
            reached, wrote = old.follower.reached, 0

            async def meanwhile(offset: int, deadline: Deadline) -> None:
                nonlocal wrote
                await reached(offset, deadline)
                if wrote < 3:
                    wrote += 1
                    await reached(await other.put("between", b"%d" % wrote) + 1, deadline)

            monkeypatch.setattr(old.follower, "reached", meanwhile)
            start = (await old.compact()).start
            for each in (old, other):
                await each.follower.hold()
            assert (await old.compactor.truncate(start, 30)).earliest == start
            async with elsewhere(log_url) as fresh:
                assert await known(fresh) == await known(old)

    async def test_a_compaction_gets_through_while_others_write_without_a_pause(
        self, bucket: Bucket, log_url: str
    ) -> None:
        """Three other handles with three writers each; nothing that they wrote is refused or lost for it."""
        done = asyncio.Event()
        written: dict[str, bytes] = {}

        async def write(other: Bucket, key: str) -> None:
            number = 0
            while not done.is_set():
                number += 1
                written[key] = b"%d" % number
                await other.put(key, written[key])

        async with AsyncExitStack() as stack:
            others = [await stack.enter_async_context(elsewhere(log_url)) for _ in range(3)]
            async with asyncio.TaskGroup() as group:
                for n in range(9):
                    group.create_task(write(others[n % 3], f"k{n}"))
                try:
                    await bucket.follower.reached(300, Deadline(30))
                    compacted = await bucket.compact(timeout=10)
                finally:
                    done.set()
            assert compacted.start >= 300
            assert await contents(others[0]) == written
            async with elsewhere(log_url) as fresh:
                assert await contents(fresh) == written

    async def test_a_bucket_with_the_largest_keys_and_values_can_be_compacted(self, log: Log, log_url: str) -> None:
        async with open_kv(log, compaction=None) as kv:
            bucket = await kv.create(NAME)
            most = value_limit(bucket.settings, log.capabilities.max_batch_bytes)
            for letter in "abc":
                await bucket.put(letter * MAX_KEY_BYTES, letter.encode() * most)
            await bucket.compact()
            async with elsewhere(log_url) as other:
                assert await contents(other) == await contents(bucket)

    async def test_a_compaction_never_cuts_off_what_somebody_still_needs(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        for n in range(10):
            await bucket.put("k", b"%d" % n)
        await log.hold(TOPIC, Holder("slow", HolderKind.NAMED, {0: 4}))
        done = await bucket.compact()
        assert (done.truncation.earliest, done.truncation.blocked_by) == (4, ("slow",))
        async with elsewhere(log_url) as other:
            assert await contents(other) == {"k": b"9"}
        await log.release(TOPIC, "slow")
        assert await bucket.compactor.tidy(CompactionPolicy(), 30) is None
        assert (await log.partitions(TOPIC))[0].earliest == done.start, "cut off later, without compacting again"

    async def test_a_bucket_compacts_itself_once_it_is_worth_it(self, log: Log, log_url: str) -> None:
        policy = CompactionPolicy(min_records=50, every_s=0.05)
        async with open_kv(log, compaction=policy) as kv:
            bucket = await kv.create(NAME)
            for n in range(100):
                await bucket.put(f"k{n % 3}", b"%d" % n)

            async def shorter() -> bool:
                return (await log.partitions(TOPIC))[0].earliest > 0

            await eventually(shorter, "the log is shorter")
            async with elsewhere(log_url) as other:
                assert await contents(other) == {"k0": b"99", "k1": b"97", "k2": b"98"}

    async def test_a_bucket_whose_beginning_was_cut_off_without_a_compaction_is_unrecoverable_and_says_so(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        for n in range(5):
            await bucket.put("k", b"%d" % n)
        await log.truncate(TOPIC, 0, 3, force=True)
        with pytest.raises(StateUnrecoverable, match="neither a compaction nor a snapshot"):
            async with elsewhere(log_url):
                pass

    # Snapshots

    @pytest.fixture
    async def objects(self) -> AsyncIterator[ObjectStore]:
        async with open_objects(f"memory://{uuid4().hex}") as store:
            yield store

    async def test_a_bucket_opens_from_its_snapshot_and_goes_on(
        self, log: Log, log_url: str, objects: ObjectStore
    ) -> None:
        async with open_kv(log, objects, compaction=None) as kv:
            bucket = await kv.create(NAME, BucketSettings(history=3))
            await lived_in(bucket)
            manifest = await bucket.snapshot()
            await bucket.put("after", b"1")
            before = await known(bucket)
            async with elsewhere(log_url, objects=objects) as other:
                assert other.status().started_from == f"snapshot {manifest.id}"
                assert await known(other) == before
            await bucket.compact()
            await bucket.snapshot()
            await bucket.snapshot()
            assert (await bucket.compact()).truncation.earliest > 0
            async with elsewhere(log_url, objects=objects) as other:
                assert await known(other) == before

    async def test_without_a_good_snapshot_a_bucket_opens_from_the_log(
        self, log: Log, log_url: str, objects: ObjectStore
    ) -> None:
        async with open_kv(log, objects, compaction=None) as kv:
            bucket = await kv.create(NAME)
            await bucket.put("k", b"1")
            manifest = await bucket.snapshot()
            await objects.put(manifest.key, b"damaged")
            async with elsewhere(log_url, objects=objects) as other:
                assert other.status().started_from == "offset 0"
                assert await contents(other) == {"k": b"1"}

    async def test_a_deleted_bucket_leaves_no_snapshots(self, log: Log, objects: ObjectStore) -> None:
        async with open_kv(log, objects, compaction=None) as kv:
            bucket = await kv.create(NAME)
            await bucket.put("k", b"1")
            await bucket.snapshot()
            await kv.delete(NAME)
            assert [info.key async for info in objects.list("")] == []
            assert [topic.name for topic in await log.topics()] == []

    # Times to live

    async def test_a_value_whose_time_is_over_is_gone_for_everybody_and_one_that_was_renewed_is_not(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with elsewhere(log_url) as other, other.watch() as watch:
            await until_ready(watch)
            put, *_ = await asyncio.gather(  # in one append, so that no time passes in between
                bucket.put("short", b"1", ttl_s=0.3),
                bucket.put("renewed", b"1", ttl_s=0.3),
                bucket.put("renewed", b"2", ttl_s=3600.0),
                bucket.put("stays", b"1"),
            )
            events = await take(watch, 5)
            gone = events[-1]
            assert isinstance(gone, Changed)
            assert (gone.entry.key, gone.entry.op) == ("short", Op.LAPSE)
            first = events[0]
            assert isinstance(first, Changed)
            assert gone.entry.time_ms >= first.entry.time_ms + 300, "not before its time"
            assert gone.entry.revision > put
            assert set(await contents(bucket)) == {"renewed", "stays"}

    async def test_a_buckets_own_time_to_live_is_that_of_values_that_bring_none(self, log: Log) -> None:
        async with open_kv(log) as kv:
            bucket = await kv.create(NAME, BucketSettings(ttl_s=0.2))
            async with bucket.watch() as watch:
                await until_ready(watch)
                await asyncio.gather(bucket.put("k", b"1"), bucket.put("long", b"1", ttl_s=3600.0))
                assert said(await take(watch, 3)) == ["k=1", "long=1", "-k"]

    async def test_whoever_opens_a_bucket_finds_nothing_there_whose_time_was_over(self, log: Log, log_url: str) -> None:
        async with open_kv(log, compaction=None, clock=ManualClock()) as kv:
            bucket = await kv.create(NAME)
            revision = await bucket.put("lock", b"the last run", ttl_s=0.001)
            await bucket.put("stays", b"1", ttl_s=3600.0)
            put = await bucket.get("lock")
            assert put is not None
            while (await bucket.history("stays"))[-1].time_ms <= put.time_ms + 1:
                await bucket.put("stays", b"1", ttl_s=3600.0)
            async with elsewhere(log_url) as other:
                assert await other.create("lock", b"this run") > revision
                assert set(await contents(other)) == {"lock", "stays"}

    # Leases, as the fold decides them

    async def test_keys_of_a_lease_are_gone_everywhere_with_its_end(self, bucket: Bucket, log_url: str) -> None:
        async with elsewhere(log_url) as other, other.watch() as watch:
            await until_ready(watch)
            granted = await bucket.say(Grant("l", 1000, "me"))
            await bucket.put("b", b"1", lease="l")
            await bucket.put("a", b"2", lease="l")
            assert said(await take(watch, 2)) == ["b=1", "a=2"]
            assert other.leases["l"].token == granted.offset
            assert other.keys_of("l") == {"a", "b"}
            assert (await other.say(Grant("l", 1000, "thief"))).verdict is Verdict.EXISTS
            beat = await bucket.say(Beat("me", ("l",)))
            assert (await other.say(Expire("l", granted.offset))).verdict is Verdict.VOID
            assert (await other.say(Expire("l", beat.offset))).verdict is Verdict.WON
            events = await take(watch, 2)
            assert said(events) == ["-a", "-b"]
            assert {event.entry.op for event in events if isinstance(event, Changed)} == {Op.RELEASE}
            assert await contents(bucket) == {}
