"""Leases: kept alive by their holder, ended by it or by whoever hears nothing of it, the same on every engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dynlog.batch import Batch, Position
from dynlog.errors import BucketNotFound, Closed, LeaseLost
from dynlog.kv import Bucket, Changed, HeldLease, Leases, Op, open_kv
from dynlog.kv.lease_holder import margin
from dynlog.kv.records import Beat, Expire, Fact, Revoke, from_parts
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.timing import SystemClock
from tests.conformance.backend import PATIENCE_S, eventually, stored
from tests.faulty import FaultyLog
from tests.kv.backend import NAME, KvBackend, contents, elsewhere, faulty, known, said, take, until_ready

TTL_S = 1.2
SLACK_S = 2.0
"""An expiry is seen within TTL + this; on a machine that is busy with other things it may be ten times as much."""


async def facts(log: Log) -> list[tuple[int, Fact]]:
    """Everything that was said to the bucket."""
    return [
        (found.offset, from_parts(found.record.key, [bytes(part) for part in found.record.parts]))
        for found in await stored(log, "dynlog.kv." + NAME)
    ]


async def beaten(bucket: Bucket, leases: list[HeldLease], beyond: int) -> None:
    """Waits until each of them was heard of behind that offset."""

    async def so() -> bool:
        return all((found := bucket.leases.get(lease.id)) and found.beat > beyond for lease in leases)

    await eventually(so, f"a heartbeat of every lease behind {beyond}")


async def ended(bucket: Bucket, lease: HeldLease) -> float:
    """When this process saw that the lease is gone, by the monotonic clock."""
    async with asyncio.timeout(PATIENCE_S + TTL_S):
        while lease.id in bucket.leases:
            await bucket.follower.changes.beyond(bucket.follower.changes.count)
    return time.monotonic()


@asynccontextmanager
async def abandoned(url: str, ttl_s: float = TTL_S, key: str | None = None, **options: Any) -> AsyncIterator[HeldLease]:
    """A lease of a holder that is cut off from the log from now on."""
    async with faulty(url, **options) as (bucket, wrapped), Leases(bucket) as leases:
        lease = await leases.grant(ttl_s, "cut off")
        if key is not None:
            await bucket.put(key, b"here", lease=lease.id)
        wrapped.down = True
        yield lease


class DeafLog(FaultyLog):
    """A log whose reads hang while nobody is told that they do."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.hearing = asyncio.Event()
        self.hearing.set()

    async def read(self, position: Position, **options: Any) -> Batch:
        await self.hearing.wait()
        return await super().read(position, **options)


class JumpingClock(SystemClock):
    """A wall clock that somebody sets."""

    jump_ms = 0

    def time_ms(self) -> int:
        return super().time_ms() + self.jump_ms


class LeaseSuite(KvBackend):
    async def test_leases_live_as_long_as_their_process_and_one_heartbeat_names_them_all(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        async with elsewhere(log_url) as other, Leases(bucket) as leases:
            held = [await leases.grant(TTL_S, f"owner {n}") for n in range(3)]
            assert [lease.token for lease in held] == sorted({lease.token for lease in held})
            began = time.monotonic()
            await beaten(other, held, -1)  # the other process hears of them when it does
            while time.monotonic() < began + 2 * TTL_S:
                await beaten(other, held, max(lease.beat for lease in other.leases.values()))
            assert {lease.owner for lease in other.leases.values()} == {"owner 0", "owner 1", "owner 2"}
            assert all(lease.held for lease in held)
            beats = [fact for _, fact in await facts(log) if isinstance(fact, Beat)]
            assert all(set(beat.leases) == {lease.id for lease in held} for beat in beats)
            least = (time.monotonic() - began) / (TTL_S / 3)
            assert len(beats) <= least + 2, "no more than one every third of the TTL"

    async def test_a_short_lease_makes_the_heartbeats_quick_and_a_long_one_does_not_slow_them(
        self, bucket: Bucket
    ) -> None:
        async with Leases(bucket) as leases:
            long = await leases.grant(3600.0)
            short = await leases.grant(TTL_S)
            await beaten(bucket, [long, short], short.token)
            await beaten(bucket, [long, short], bucket.leases[short.id].beat)
            assert short.held

    async def test_a_revoked_lease_is_gone_with_its_keys_and_its_holders_writes_lose(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with elsewhere(log_url) as other, other.watch() as watch, Leases(bucket) as leases:
            await until_ready(watch)
            lease = await leases.grant(60.0, "me")
            await bucket.put("k", b"1", lease=lease.id)
            await bucket.put("stays", b"1")
            await leases.revoke(lease)
            assert lease.lost.is_set()
            assert said(await take(watch, 3)) == ["k=1", "stays=1", "-k"]
            with pytest.raises(LeaseLost):
                lease.check()
            with pytest.raises(LeaseLost):
                await bucket.put("k", b"2", lease=lease.id)
            await leases.revoke(lease)
            assert await contents(other) == {"stays": b"1"}

    async def test_leases_that_are_left_are_revoked_at_the_end(self, bucket: Bucket) -> None:
        async with Leases(bucket) as leases:
            held = [await leases.grant(60.0) for _ in range(5)]
            assert len(bucket.leases) == 5
        assert bucket.leases == {}
        assert all(lease.lost.is_set() for lease in held)
        with pytest.raises(Closed):
            await leases.grant(60.0)

    async def test_the_lease_of_a_holder_that_is_gone_ends_for_all_within_the_ttl_and_a_little(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        async with elsewhere(log_url) as other, other.watch() as watch, abandoned(log_url, key="k") as lease:
            cut = time.monotonic()
            await until_ready(watch)
            assert said(await take(watch, 1)) == ["k=here"]
            await bucket.barrier()
            assert lease.id in bucket.leases
            async with asyncio.timeout(PATIENCE_S):
                await lease.lost.wait()
            stopped = time.monotonic()
            seen = max(await asyncio.gather(ended(bucket, lease), ended(other, lease)))
            print(f"the holder stopped after {stopped - cut:.3f} s, all saw the end after {seen - cut:.3f} s")
            assert stopped < seen, "the holder stops before anybody can have its place"
            assert seen - cut < TTL_S + 10 * SLACK_S
            gone = (await take(watch, 1))[0]
            assert isinstance(gone, Changed)
            assert (gone.entry.key, gone.entry.op) == ("k", Op.RELEASE)
        expiries = [fact for _, fact in await facts(log) if isinstance(fact, Expire)]
        assert {fact.lease for fact in expiries} == {lease.id}

    async def test_a_lease_that_was_lost_stays_lost_and_a_late_heartbeat_does_not_keep_it_from_others(
        self, log: Log, log_url: str
    ) -> None:
        async with open_kv(log) as kv:
            await kv.create(NAME)
        async with faulty(log_url) as (bucket, wrapped), Leases(bucket) as leases:
            lease = await leases.grant(TTL_S)
            wrapped.gate.clear()  # appends hang: the heartbeat is on its way, and the only observer's word behind it
            async with asyncio.timeout(PATIENCE_S):
                await lease.lost.wait()
            heard = bucket.leases[lease.id].beat
            wrapped.gate.set()
            await ended(bucket, lease)
            assert not lease.held
            with pytest.raises(LeaseLost, match="no heartbeat was acknowledged"):
                lease.check()
            later = [type(fact) for offset, fact in await facts(log) if offset > heard and not isinstance(fact, Expire)]
            assert later == [Beat, Revoke], "the late heartbeat gave it another TTL, and its holder gave that back"

    async def test_a_heartbeat_that_was_long_under_way_counts_from_its_send(self, log: Log, log_url: str) -> None:
        async with open_kv(log) as kv:
            await kv.create(NAME)
        async with faulty(log_url) as (bucket, wrapped), Leases(bucket) as leases:
            lease = await leases.grant(3 * TTL_S)
            wrapped.gate.clear()
            await asyncio.sleep(1.5 * TTL_S)  # a heartbeat is under way since TTL_S
            wrapped.gate.set()
            await beaten(bucket, [lease], lease.token)
            assert lease.held
            assert lease.remaining < 3 * TTL_S - margin(3 * TTL_S) - 0.4 * TTL_S

    async def test_a_short_outage_costs_no_lease(self, log: Log, log_url: str) -> None:
        async with open_kv(log) as kv:
            await kv.create(NAME)
        async with elsewhere(log_url) as other, faulty(log_url) as (bucket, wrapped), Leases(bucket) as leases:
            lease = await leases.grant(3 * TTL_S)
            wrapped.down = True
            due = lease.remaining
            await asyncio.sleep(TTL_S * 1.2)  # past one heartbeat, short of the TTL
            wrapped.down = False
            await beaten(other, [lease], lease.token)
            assert lease.held
            assert lease.remaining > due - TTL_S * 3

    async def test_the_holder_learns_that_its_lease_was_ended_by_others(self, bucket: Bucket, log_url: str) -> None:
        async with elsewhere(log_url) as other, Leases(bucket) as leases:
            lease = await leases.grant(TTL_S)
            while True:  # a heartbeat may be ahead of it
                await other.barrier()
                if lease.id not in other.leases:
                    break
                await other.say(Expire(lease.id, other.leases[lease.id].beat))
            async with asyncio.timeout(PATIENCE_S):
                await lease.lost.wait()
            assert "ended in the log" in str(lease.reason)

    async def test_a_wall_clock_that_jumps_neither_ends_a_lease_nor_keeps_it(self, log: Log, log_url: str) -> None:
        clock = JumpingClock()  # of all there are
        async with open_kv(log, compaction=None, clock=clock) as kv, Leases(await kv.create(NAME)) as leases:
            lease, bucket = await leases.grant(TTL_S), leases.bucket
            for clock.jump_ms in (86_400_000, -86_400_000):
                await beaten(bucket, [lease], bucket.leases[lease.id].beat)
                await beaten(bucket, [lease], bucket.leases[lease.id].beat)
            assert lease.held
            async with abandoned(log_url, clock=clock) as gone:
                cut = time.monotonic()
                await bucket.barrier()
                await asyncio.sleep(TTL_S / 3)
                clock.jump_ms = -172_800_000
                assert await ended(bucket, gone) - cut < TTL_S + 10 * SLACK_S
            assert lease.id in bucket.leases

    async def test_an_observer_that_does_not_read_to_the_logs_end_accuses_nobody(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        async with open_log(log_url) as theirs:
            deaf = DeafLog(theirs)
            async with open_kv(deaf.log, compaction=None) as kv, Leases(bucket) as leases:
                other = await kv.bucket(NAME)
                lease = await leases.grant(TTL_S)
                await beaten(other, [lease], lease.token)
                deaf.hearing.clear()
                until = time.monotonic() + 1.5 * TTL_S
                while time.monotonic() < until:  # the holder lives, and the other one does not hear it
                    await beaten(bucket, [lease], bucket.leases[lease.id].beat)
                deaf.hearing.set()
                await other.barrier()
                await beaten(other, [lease], other.leases[lease.id].beat)
                assert lease.held
        assert [fact for _, fact in await facts(log) if isinstance(fact, Expire)] == []

    async def test_a_holder_whose_bucket_is_deleted_has_to_stop(self, log: Log) -> None:
        async with open_kv(log, compaction=None) as kv:
            bucket = await kv.create(NAME)
            async with Leases(bucket) as leases:
                lease = await leases.grant(TTL_S)
                await kv.delete(NAME)
                async with asyncio.timeout(PATIENCE_S):
                    await lease.lost.wait()
                with pytest.raises(BucketNotFound):
                    await leases.grant(TTL_S)

    async def test_a_compaction_keeps_leases_and_whoever_opens_the_bucket_then_still_expires_them(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        async with Leases(bucket) as leases, abandoned(log_url, 4 * TTL_S, "k") as gone:
            lease = await leases.grant(60.0)
            await bucket.put("mine", b"1", lease=lease.id)
            await bucket.compact()
            async with elsewhere(log_url) as fresh:
                assert fresh.leases[gone.id].token == gone.token
                assert await known(fresh) == await known(bucket)
                await ended(fresh, gone)
                assert await contents(fresh) == {"mine": b"1"}

    async def test_a_grant_that_is_cancelled_leaves_nothing_that_lives_on(self, bucket: Bucket) -> None:
        async with Leases(bucket) as leases:
            for turns in range(30):
                task = asyncio.create_task(leases.grant(TTL_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    await leases.revoke(task.result())
            assert leases.held == []

            async def none_left() -> bool:
                return not bucket.leases

            await eventually(none_left, "no lease is left")

    async def test_a_grant_that_takes_longer_than_the_lease_lives_is_lost(self, log: Log, log_url: str) -> None:
        async with open_kv(log) as kv:
            await kv.create(NAME)
        async with faulty(log_url) as (bucket, wrapped), Leases(bucket) as leases:
            wrapped.gate.clear()
            task = asyncio.create_task(leases.grant(0.2))
            await asyncio.sleep(0.2 - margin(0.2) + 0.05)
            wrapped.gate.set()
            with pytest.raises(LeaseLost):
                await task
            assert leases.held == []
