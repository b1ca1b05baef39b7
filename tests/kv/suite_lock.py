"""Locks and elections: who is first, in which order, and what a cancellation, a death or an outage leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded, KeyNotFound, LeaseLost
from dynlog.kv import Bucket, Election, HeldLease, Leader, Leases, Lock
from dynlog.kv.line import in_line
from dynlog.kv.records import Create
from dynlog.log import Log
from tests.conformance.backend import PATIENCE_S, after_turns, eventually
from tests.kv.backend import KvBackend, contents, elsewhere, faulty
from tests.kv.suite_lease import TTL_S, facts

NAME = "jobs/rebuild"


async def line(bucket: Bucket, name: str = NAME) -> list[str]:
    """The places in line, in their order."""
    entries = await bucket.entries(f"{name}/", linearizable=True)
    return [entry.key for entry in sorted(entries, key=lambda entry: entry.created) if in_line(entry.key, name)]


async def in_line_are(bucket: Bucket, count: int, name: str = NAME) -> None:
    """Waits until so many stand in line."""

    async def so() -> bool:
        return len(await line(bucket, name)) == count

    await eventually(so, f"{count} in line")


@asynccontextmanager
async def two(bucket: Bucket, url: str, ttl_s: float = 30.0) -> AsyncIterator[tuple[HeldLease, HeldLease]]:
    """Leases of two processes."""
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(elsewhere(url))
        one = await stack.enter_async_context(Leases(bucket))
        another = await stack.enter_async_context(Leases(other))
        yield await one.grant(ttl_s, "one"), await another.grant(ttl_s, "other")


class LockSuite(KvBackend):
    async def test_a_lock_has_one_holder_and_goes_round_in_the_order_of_asking_with_rising_tokens(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with two(bucket, log_url) as leases:
            held: list[int] = []
            inside = 0

            async def work(n: int) -> None:
                nonlocal inside
                async with Lock(leases[n % 2], NAME) as lock:
                    inside += 1
                    assert inside == 1
                    held.append(lock.token)
                    await bucket.put("state", b"%d" % n)
                    assert lock.held
                    inside -= 1

            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(work(n) for n in range(20)))
            assert held == sorted(set(held))
            assert len(held) == 20
            assert await line(bucket) == []

    async def test_whoever_asks_first_has_it_first(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as leases, asyncio.TaskGroup() as group:
            order: list[int] = []

            async def work(n: int) -> None:
                async with Lock(leases[n % 2], NAME):
                    order.append(n)

            async with Lock(leases[0], NAME):
                for n in range(6):
                    group.create_task(work(n))
                    await in_line_are(bucket, n + 2)
                assert order == []
            await in_line_are(bucket, 0)
        assert order == [0, 1, 2, 3, 4, 5]

    async def test_waiting_costs_one_record_and_going_on_one(self, log: Log, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as leases:
            first = Lock(leases[0], NAME)
            await first.acquire()
            waiting = [asyncio.create_task(Lock(leases[1], NAME).acquire()) for _ in range(10)]
            await in_line_are(bucket, 11)
            await first.release()
            assert await asyncio.wait_for(waiting[0], PATIENCE_S) > 0
            created = [fact for _, fact in await facts(log) if isinstance(fact, Create)]
            assert len(created) == 11
            assert not any(task.done() for task in waiting[1:]), "only the next one"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def test_a_wait_that_is_too_long_says_so_and_leaves_the_line(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, other), Lock(one, NAME):
            lock = Lock(other, NAME)
            with pytest.raises(DeadlineExceeded, match=NAME):
                await lock.acquire(timeout=0.2)
            assert not lock.held
            await in_line_are(bucket, 1)

    async def test_one_that_is_cancelled_at_any_moment_leaves_the_line(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, other):
            for turns in range(40):
                lock = Lock(other, NAME)
                task = asyncio.create_task(lock.acquire())
                await after_turns(turns)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                if not task.cancelled():
                    await lock.release()
            async with Lock(one, NAME):
                tasks = [asyncio.create_task(Lock(other, NAME).acquire()) for _ in range(20)]
                await in_line_are(bucket, 21)
                for number, task in enumerate(tasks):
                    task.cancel()
                    await after_turns(number)
                await asyncio.gather(*tasks, return_exceptions=True)
                await in_line_are(bucket, 1)
            async with asyncio.timeout(PATIENCE_S), Lock(other, NAME):
                await in_line_are(bucket, 1)

    async def test_a_release_that_is_cancelled_still_lets_the_next_one_in(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, other):
            for turns in range(1, 8):
                lock = Lock(one, NAME)
                await lock.acquire()
                task = asyncio.create_task(lock.release())
                await after_turns(turns)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                async with asyncio.timeout(PATIENCE_S), Lock(other, NAME):
                    pass

    async def test_a_lock_goes_on_when_its_holder_is_gone_and_the_late_writes_of_that_lose(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with faulty(log_url) as (cut_off, wrapped), Leases(cut_off) as theirs, Leases(bucket) as ours:
            late = Lock(await theirs.grant(TTL_S, "late"), NAME)
            await late.acquire()
            await cut_off.put("state", b"late", lease=late.lease.id)
            wrapped.down = True
            lock = Lock(await ours.grant(30.0), NAME)
            token = await lock.acquire(timeout=PATIENCE_S)
            assert token > late.token
            assert not late.held, "it knew before we had it"
            assert late.lost.is_set()
            with pytest.raises(LeaseLost):
                late.check()
            await bucket.put("state", b"ours", lease=lock.lease.id)
            wrapped.down = False
            with pytest.raises(LeaseLost):
                await cut_off.put("state", b"late again", lease=late.lease.id)
            assert (await contents(bucket))["state"] == b"ours"
            await late.release()
            assert lock.held

    async def test_a_release_without_a_log_happens_once_there_is_one(self, bucket: Bucket, log_url: str) -> None:
        async with faulty(log_url) as (cut_off, wrapped), Leases(cut_off) as theirs, Leases(bucket) as ours:
            lock = Lock(await theirs.grant(60.0), NAME)
            await lock.acquire()
            next_ = Lock(await ours.grant(60.0), NAME)
            waiting = asyncio.create_task(next_.acquire(PATIENCE_S))
            wrapped.down = True
            releasing = asyncio.create_task(lock.release())
            await after_turns(5)
            releasing.cancel()
            await asyncio.gather(releasing, return_exceptions=True)
            assert not waiting.done()
            wrapped.down = False
            assert await waiting > 0

    async def test_a_holder_whose_place_somebody_deleted_is_told(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, other):
            lock = Lock(one, NAME)
            await lock.acquire()
            await bucket.delete((await line(bucket))[0])
            async with asyncio.timeout(PATIENCE_S):
                await lock.lost.wait()
            with pytest.raises(KeyNotFound):
                lock.check()
            assert not lock.held
            assert one.held, "the lease is still its own"
            async with Lock(other, NAME):
                await lock.release()
                await in_line_are(bucket, 1)

    async def test_a_revoked_lease_takes_its_places_in_line_with_it(self, bucket: Bucket, log_url: str) -> None:
        async with elsewhere(log_url) as other, Leases(bucket) as ours, Leases(other) as theirs:
            lease = await ours.grant(30.0)
            held = Lock(lease, NAME)
            await held.acquire()
            waiting = asyncio.create_task(Lock(lease, NAME).acquire())
            await in_line_are(bucket, 2)
            await ours.revoke(lease)
            with pytest.raises(LeaseLost):
                await waiting
            assert not held.held
            async with asyncio.timeout(PATIENCE_S), Lock(await theirs.grant(30.0), NAME):
                await in_line_are(bucket, 1)

    async def test_locks_whose_names_begin_alike_have_nothing_to_do_with_each_other(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with two(bucket, log_url) as (one, other):
            await bucket.put("jobs/notes", b"no place in a line")
            async with asyncio.timeout(PATIENCE_S), Lock(one, "jobs/rebuild"), Lock(other, "jobs"), Lock(one, "job"):
                pass

    async def test_a_lock_is_not_entered_twice_nor_left_without_having_been(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, _):
            lock = Lock(one, NAME)
            with pytest.raises(Closed):
                await lock.release()
            async with lock:
                with pytest.raises(ConfigurationError):
                    await lock.acquire()
            with pytest.raises(Closed):
                _ = lock.token
            async with lock:
                assert lock.held

    async def test_a_line_goes_on_over_a_compaction(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, other):
            lock = Lock(one, NAME)
            before = await lock.acquire()
            waiting = asyncio.create_task(Lock(other, NAME).acquire())
            await in_line_are(bucket, 2)
            await bucket.compact()
            async with elsewhere(log_url) as fresh, Leases(fresh) as leases:
                last = asyncio.create_task(Lock(await leases.grant(30.0), NAME).acquire())
                await in_line_are(bucket, 3)
                await lock.release()
                assert await asyncio.wait_for(waiting, PATIENCE_S) > before
                assert not last.done()
                last.cancel()
                await asyncio.gather(last, return_exceptions=True)

    # Elections

    async def test_one_leads_at_a_time_and_all_see_who(self, bucket: Bucket, log_url: str) -> None:
        async with two(bucket, log_url) as (one, other):
            election = Election(bucket, "scheduler")
            async with asyncio.timeout(PATIENCE_S), election.observe() as leaders:
                assert await anext(leaders) is None
                first = await election.campaign(one, b"one")
                assert await anext(leaders) == Leader(first.token, b"one", one.id)
                standing = asyncio.create_task(Election(other.bucket, "scheduler").campaign(other, b"other"))
                await in_line_are(bucket, 2, "scheduler")
                await first.proclaim(b"one, busy")
                assert await anext(leaders) == Leader(first.token, b"one, busy", one.id)
                assert await election.leader(linearizable=True) == Leader(first.token, b"one, busy", one.id)
                assert not standing.done()
                await first.resign()
                second = await standing
                assert await anext(leaders) == Leader(second.token, b"other", other.id)
                assert second.token > first.token
                assert not first.held
                with pytest.raises(Closed):
                    await first.proclaim(b"one, still")
                async with second:
                    assert second.held
                assert await anext(leaders) is None

    async def test_a_leader_that_is_cut_off_stops_before_another_leads(self, bucket: Bucket, log_url: str) -> None:
        async with faulty(log_url) as (cut_off, wrapped), Leases(cut_off) as theirs, Leases(bucket) as ours:
            old = await Election(cut_off, "scheduler").campaign(await theirs.grant(TTL_S), b"old")
            wrapped.down = True
            lease = await ours.grant(30.0)
            async with await Election(bucket, "scheduler").campaign(lease, b"new", PATIENCE_S) as new:
                assert not old.held
                assert new.token > old.token
                with pytest.raises(LeaseLost):
                    await old.proclaim(b"old, still")
                wrapped.down = False
                assert await Election(bucket, "scheduler").leader() == Leader(new.token, b"new", lease.id)

    async def test_a_lock_or_an_election_without_a_name_is_refused(self, bucket: Bucket) -> None:
        async with Leases(bucket) as leases:
            lease = await leases.grant(30.0)
            for name in ("", None, b"jobs", 7):
                with pytest.raises(ConfigurationError, match="name"):
                    Lock(lease, name)  # type: ignore[arg-type]
                with pytest.raises(ConfigurationError, match="name"):
                    Election(bucket, name)  # type: ignore[arg-type]
        assert await contents(bucket) == {}
