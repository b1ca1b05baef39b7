"""What lies behind open buckets: opening, closing, snapshots in the middle of a batch, tasks that fail."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from dynlog.errors import Closed, LeaseLost, LogDiverged
from dynlog.kv import BucketSettings, open_kv, store
from dynlog.kv.leases import Leases
from dynlog.kv.lock import Lock
from dynlog.kv.settings import labels_of
from dynlog.log import Log
from dynlog.manifests import Manifest
from dynlog.open import open_log, open_objects
from dynlog.topics import Holder
from tests.conformance.backend import after_turns
from tests.faulty import FaultyLog
from tests.kv.backend import NAME, elsewhere


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    async with open_log(f"memory://{uuid4().hex}") as opened:
        yield opened


class Held(FaultyLog):
    """Nobody gets a hold on the topic while ``holds`` is not set."""

    def __init__(self, log: Log, topic: str) -> None:
        super().__init__(log)
        self.topic_held, self.holds = topic, asyncio.Event()

    async def hold(self, topic: str, holder: Holder, **rest: Any) -> None:
        if topic == self.topic_held:
            await self.holds.wait()
        await self._log.hold(topic, holder, **rest)


async def test_a_bucket_that_was_being_opened_when_its_store_closed_leaves_nothing_running(log: Log) -> None:
    async with open_kv(log, compaction=None) as kv:
        await kv.create(NAME)
    held = Held(log, "dynlog.kv." + NAME)
    closing = open_kv(held.log)
    opening = asyncio.create_task(closing.bucket(NAME))
    await after_turns(10)
    tasks = asyncio.all_tasks()
    await closing.close()
    held.holds.set()
    with pytest.raises(Closed):
        await opening
    assert asyncio.all_tasks() <= tasks


async def test_a_bucket_that_does_not_open_keeps_no_other_from_it(log: Log) -> None:
    held = Held(log, "dynlog.kv." + NAME)
    async with open_kv(held.log) as kv:
        await log.create_topic("dynlog.kv." + NAME, labels=labels_of(BucketSettings()))
        opening = asyncio.create_task(kv.bucket(NAME))
        await after_turns(10)
        async with asyncio.timeout(20):
            assert await (await kv.create("other")).put("k", b"") == 0
        held.holds.set()
        assert len(await opening) == 0


async def test_a_snapshot_in_the_middle_of_a_batch_knows_no_mark_of_what_it_does_not_hold() -> None:
    url = f"memory://{uuid4().hex}?checks_marks=false"
    async with (
        open_log(url) as log,
        open_kv(log, compaction=None) as kv,
        open_objects(f"memory://{uuid4().hex}") as objects,
    ):
        bucket = await kv.create(NAME)
        async with elsewhere(url, objects=objects) as other:
            written: list[asyncio.Task[Manifest]] = []

            def at_the_first_change(_: object) -> None:
                if not written:
                    written.append(asyncio.create_task(other.snapshot()))

            other.follower.listeners.append(at_the_first_change)
            await asyncio.gather(*(bucket.put(f"k{n:04}", b"") for n in range(1000)))
            await other.barrier()
            manifest = await written[0]
            assert 0 < manifest.positions[0] < 1000, "in the middle"
            async with elsewhere(url, objects=objects) as third:
                assert third.status().started_from == f"snapshot {manifest.id}"
                assert len(third) == 1000


async def test_what_has_a_lease_is_not_taken_from_it_by_the_buckets_time_to_live(log: Log) -> None:
    async with open_kv(log, compaction=None) as kv:
        bucket = await kv.create(NAME, BucketSettings(ttl_s=0.5))
        async with Leases(bucket) as leases:
            lease = await leases.grant(30.0)
            async with Lock(lease, "jobs"):
                assert [entry.ttl_ms for entry in await bucket.entries("jobs/")] == [0]
            await bucket.put("both", b"", lease=lease.id, ttl_s=100.0)
            assert [entry.ttl_ms for entry in await bucket.entries("both")] == [100_000]


async def test_a_task_behind_a_bucket_that_fails_begins_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "AGAIN_S", 0.0)
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise AttributeError("a defect")

    await store._kept_up(run)
    assert runs == 3
    assert "a defect" in caplog.text


async def test_leases_in_a_bucket_that_failed_for_good_are_lost_at_once_and_nothing_is_tried_again(log: Log) -> None:
    async with open_kv(log, compaction=None) as kv:
        bucket = await kv.create(NAME)
        async with Leases(bucket) as leases:
            lease = await leases.grant(30.0)
            bucket.follower.fail(LogDiverged("the tail is lost", topic=bucket.name, partition=0, offset=1))
            await leases._beat([lease])
            with pytest.raises(LeaseLost, match="the tail is lost"):
                lease.check()
            leases._lost[lease.id] = 0.0  # as if its TTL were over
            leases._to_tidy.set()
            await after_turns(10)
            assert not leases._lost


async def test_a_write_that_nobody_waits_for_any_more_is_no_error_of_the_event_loop_when_the_bucket_fails(
    log: Log,
) -> None:
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    async with open_kv(log, compaction=None) as kv:
        follower = (await kv.create(NAME)).follower
        follower.waiting[1, 1] = asyncio.get_running_loop().create_future()
        follower.fail(LogDiverged("the tail is lost", topic=NAME, partition=0, offset=1))
        gc.collect()
        await after_turns(3)
    assert not unheard
