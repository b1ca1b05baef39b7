"""A worker group: members share the partitions, keep what they may, and each record is handled by one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from dynlog.errors import CommitFenced
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.membership import GroupTiming
from dynlog.received import Delivery
from tests.conformance.backend import PATIENCE_S, TOPIC, eventually, fill, numbered
from tests.consume.backend import ConsumeBackend, body, committed, member, nothing_comes, spread, take, until


class GroupSuite(ConsumeBackend):
    async def test_a_lone_member_gets_everything_in_order(self, log: Log, log_url: str) -> None:
        await fill(log, 20)
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 20)] == [f"r{n}" for n in range(20)]
            await nothing_comes(consumer)

    async def test_what_was_acknowledged_is_not_delivered_to_the_next_member(self, log: Log, log_url: str) -> None:
        await fill(log, 6)
        async with member(log_url) as consumer:
            await take(consumer, 4)
        assert await committed(log) == {0: 4}
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 2)] == ["r4", "r5"]

    async def test_what_was_not_acknowledged_is_delivered_again(self, log: Log, log_url: str) -> None:
        await fill(log, 3)
        async with member(log_url) as consumer:
            assert (await consumer.next(PATIENCE_S)) is not None
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 3)] == ["r0", "r1", "r2"]

    async def test_a_commit_never_passes_a_record_that_is_not_done(self, log: Log, log_url: str) -> None:
        await fill(log, 5)
        async with member(log_url) as consumer:
            held = [await consumer.next(PATIENCE_S) for _ in range(5)]
            for delivery in (held[0], held[1], held[3], held[4]):
                assert delivery is not None
                await delivery.ack()
            await consumer.commit()
            assert await committed(log) == {0: 2}
            assert held[2] is not None
            await held[2].ack()
            await consumer.commit()
            assert await committed(log) == {0: 5}

    async def test_members_share_the_partitions_evenly_and_each_record_is_handled_once(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC, partitions=6)
        seen: Counter[str] = Counter()

        async def note(delivery: Delivery) -> None:
            seen[body(delivery)] += 1

        async with AsyncExitStack() as stack:
            members = [await stack.enter_async_context(member(log_url)) for _ in range(3)]
            await until(lambda: all(len(m.partitions) == 2 for m in members), "two partitions each")
            assert frozenset.union(*(m.partitions for m in members)) == frozenset(range(6))
            runs = [asyncio.create_task(m.run(note)) for m in members]
            for partition in range(6):
                await log.append(TOPIC, partition, numbered(20, f"{partition}."))
            await until(lambda: len(seen) == 120, "everything handled")
            for one in members:
                await one.stop()
            await asyncio.gather(*runs)
        assert set(seen.values()) == {1}

    async def test_a_member_that_keeps_its_partitions_is_not_paused_while_others_come_and_go(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC, partitions=2)
        async with member(log_url) as first:
            await until(lambda: first.partitions == {0, 1}, "the first has both")
            async with member(log_url) as second:
                await until(lambda: len(second.partitions) == 1, "the second has one")
                (kept,) = first.partitions
                await log.append(TOPIC, kept, numbered(1))
                (held,) = [await first.next(PATIENCE_S)]
                assert held is not None
                async with member(log_url):  # one more than partitions: nothing moves
                    await held.ack()
                    await first.commit()
                    assert (await committed(log))[kept] == 1
                assert first.partitions == {kept}
            await until(lambda: first.partitions == {0, 1}, "the first has both again")

    async def test_a_partition_is_handed_over_after_what_was_in_hands_and_nothing_is_handled_twice(
        self, log: Log, log_url: str
    ) -> None:
        everything = await spread(log, 30, 4)
        begun: Counter[str] = Counter()
        seen: Counter[str] = Counter()

        async def note(delivery: Delivery) -> None:
            begun[body(delivery)] += 1
            await asyncio.sleep(0.3)
            seen[body(delivery)] += 1

        async with member(log_url) as first:
            running = asyncio.create_task(first.run(note, concurrency=100))
            await until(lambda: len(begun) == 100, "the first has records of all partitions in hands")
            async with member(log_url) as second:
                other = asyncio.create_task(second.run(note, concurrency=4))
                await until(lambda: len(seen) == 120, "everything handled")
                await second.stop()
                await other
            await first.stop()
            await running
        assert set(seen) == everything
        assert set(seen.values()) == set(begun.values()) == {1}

    async def test_a_member_that_was_away_is_expired_fenced_and_comes_back(self, log: Log, log_url: str) -> None:
        """Its heartbeats do not get through, as if its process had been stopped; then they do."""
        await fill(log, 4)
        silent = ConsumerSettings(timing=GroupTiming(heartbeat_s=30.0, expire_s=60.0))
        async with member(log_url, silent) as away:
            (held,) = [await away.next(PATIENCE_S)]
            assert held is not None
            async with member(log_url) as successor:
                assert [body(d) for d in await take(successor, 2)] == ["r0", "r1"]
                await until(lambda: held.settled, "the one that was away knows")
                with pytest.raises(CommitFenced):
                    await held.ack()
                await successor.commit()
                assert await committed(log) == {0: 2}
                assert away.counts.lost > 0

    async def test_groups_do_not_disturb_each_other(self, log: Log, log_url: str) -> None:
        await fill(log, 5)
        async with member(log_url, group="a") as one, member(log_url, group="b") as two:
            for consumer in (one, two):
                assert [body(d) for d in await take(consumer, 5)] == [f"r{n}" for n in range(5)]

    async def test_a_group_that_begins_at_the_end_sees_only_what_comes(self, log: Log, log_url: str) -> None:
        await fill(log, 5)
        async with member(log_url, ConsumerSettings(start="end")) as consumer:
            await until(lambda: consumer.partitions == {0}, "it has begun")
            await log.append(TOPIC, 0, numbered(2, "late"))
            assert [body(d) for d in await take(consumer, 2)] == ["late0", "late1"]

    async def test_a_group_keeps_its_records_from_truncation(self, log: Log, log_url: str) -> None:
        await fill(log, 5)
        async with member(log_url) as consumer:
            await take(consumer, 2)
            await consumer.commit()
            done = await log.truncate(TOPIC, 0, 5)
            assert (done.earliest, done.blocked_by) == (2, ("group:workers",))

    async def test_the_groups_own_topic_stays_small(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        busy = ConsumerSettings(timing=GroupTiming(heartbeat_s=0.002, expire_s=10.0))
        async with member(log_url, busy) as consumer:
            await take(consumer, 1)
            (own,) = [t.name for t in await log.topics() if t.name != TOPIC]

            async def truncated() -> bool:
                (state,) = await log.partitions(own)
                return state.earliest > 0

            await eventually(truncated, "a picture was taken and what lies below was removed")
            async with member(log_url, busy) as other:
                await log.append(TOPIC, 0, numbered(1, "late"))
                assert [body(d) for d in await take(consumer, 1)] == ["late0"]
                assert other.partitions == frozenset()
