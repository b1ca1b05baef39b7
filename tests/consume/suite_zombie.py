"""A member that is cut off from its group and does not know it: it can do no harm, and comes back."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.consumer import Consumer
from dynlog.errors import CommitFenced
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.membership import GroupTiming
from tests.conformance.backend import PATIENCE_S, TOPIC, fill, numbered
from tests.consume.backend import GROUP, ConsumeBackend, body, committed, member, nothing_comes, take, until
from tests.consume.deaf import DeafLog
from tests.faulty import FaultyLog


class ZombieSuite(ConsumeBackend):
    async def test_a_zombies_commit_is_fenced_and_what_it_holds_is_delivered_to_its_successor(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 4)
        deaf = DeafLog(log)
        unaware = ConsumerSettings(timing=GroupTiming(heartbeat_s=0.5, expire_s=60.0))
        async with Consumer.open(deaf.log, TOPIC, group=GROUP, settings=unaware) as zombie:
            held = [await zombie.next(PATIENCE_S) for _ in range(4)]
            deaf.cut()
            async with member(log_url) as successor:
                first = await successor.next(PATIENCE_S)
                assert first is not None
                assert body(first) == "r0"
                for delivery in held:
                    assert delivery is not None
                    await delivery.ack()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(zombie.commit(), 0.5)
                assert (await committed(log)).get(0, 0) == 0, "it believes that it owns the partition, and is fenced"
                await first.ack()
                assert [body(d) for d in await take(successor, 3)] == ["r1", "r2", "r3"]
                await successor.commit()
                assert await committed(log) == {0: 4}
                deaf.mend()
                await until(lambda: zombie.partitions == frozenset(), "it knows now")
            await log.append(TOPIC, 0, numbered(1, "late"))
            assert [body(d) for d in await take(zombie, 1)] == ["late0"], "it came back and is the only one now"

    async def test_a_member_that_cannot_say_that_it_is_there_begins_nothing_new(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        deaf = DeafLog(log)
        async with Consumer.open(deaf.log, TOPIC, group=GROUP) as away:
            await take(away, 1)
            deaf.cut()
            async with member(log_url) as other:
                await until(lambda: other.partitions == {0}, "the other one took over")
                await log.append(TOPIC, 0, numbered(1, "late"))
                await nothing_comes(away, 0.5)
                assert [body(d) for d in await take(other, 1)] == ["late0"]
                deaf.mend()

    async def test_a_member_that_speaks_again_begins_nothing_before_it_heard_whether_it_was_expired(
        self, log: Log, log_url: str
    ) -> None:
        """As one that was paused for long: its first sign of life is stored before it has read what was said of it."""
        await fill(log, 1)
        deaf = DeafLog(log)
        async with Consumer.open(deaf.log, TOPIC, group=GROUP) as away:
            await take(away, 1)
            deaf.cut()
            async with member(log_url) as other:
                await until(lambda: other.partitions == {0}, "the other one took over")
                said = deaf.said
                deaf.let_speak()
                await until(lambda: deaf.said >= said + 3, "it said that it is there")
                await log.append(TOPIC, 0, numbered(1, "late"))
                await nothing_comes(away, 0.5)
                assert [body(d) for d in await take(other, 1)] == ["late0"]
                deaf.mend()

    async def test_a_delivery_lost_while_its_handler_runs_cancels_the_handler(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        deaf = DeafLog(log)
        began, ended = asyncio.Event(), asyncio.Event()

        async def handle(delivery: object) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with Consumer.open(deaf.log, TOPIC, group=GROUP) as away:
            running = asyncio.create_task(away.run(handle))
            await began.wait()
            deaf.cut()
            async with member(log_url) as other:
                delivery = await other.next(PATIENCE_S)
                assert delivery is not None
                await delivery.ack()
                deaf.mend()
                async with asyncio.timeout(PATIENCE_S):
                    await ended.wait()
            await away.stop()
            await running

    async def test_a_group_heals_after_somebody_opened_a_generation_and_died(self, log: Log, log_url: str) -> None:
        """As a leader that is killed between opening the generation and telling the group."""
        await fill(log, 4)
        async with member(log_url) as one, member(log_url) as two:
            await until(lambda: one.partitions | two.partitions == {0}, "one of them reads")
            await log.open_generation(GROUP, TOPIC)
            reader = one if one.partitions else two
            await take(reader, 4)
            async with asyncio.timeout(PATIENCE_S):
                await reader.commit()
            assert await committed(log) == {0: 4}

    async def test_nobody_is_expired_and_nothing_is_lost_because_the_log_was_away(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC, partitions=2)
        await log.append(TOPIC, 0, numbered(1, "0."))
        await log.append(TOPIC, 1, numbered(1, "1."))
        faulty = FaultyLog(log)
        settings = ConsumerSettings(timing=GroupTiming(heartbeat_s=0.1, expire_s=0.8))
        async with (
            Consumer.open(faulty.log, TOPIC, group=GROUP, settings=settings) as one,
            Consumer.open(faulty.log, TOPIC, group=GROUP, settings=settings) as two,
        ):
            await until(lambda: len(one.partitions) == len(two.partitions) == 1, "one partition each")
            owned = one.partitions, two.partitions
            held = [await one.next(PATIENCE_S), await two.next(PATIENCE_S)]
            faulty.down = True
            for delivery in held:
                assert delivery is not None
                await delivery.ack()
            await nothing_comes(one, 0.3)  # a read that was under way has ended
            for partition in range(2):
                await log.append(TOPIC, partition, numbered(1, f"{partition}.late"))
            await nothing_comes(one, 2.0)
            faulty.down = False
            for consumer in (one, two):
                await take(consumer, 1)
                await consumer.commit()
            assert await committed(log) == {0: 2, 1: 2}
            assert (one.partitions, two.partitions) == owned
            assert one.counts.lost == two.counts.lost == 0

    async def test_acknowledging_what_was_lost_says_so(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        deaf = DeafLog(log)
        async with Consumer.open(deaf.log, TOPIC, group=GROUP) as away:
            held = await away.next(PATIENCE_S)
            assert held is not None
            deaf.cut()
            async with member(log_url) as other:
                await take(other, 1)
                deaf.mend()
                await until(lambda: held.settled, "it knows now")
                for settle in (held.ack, held.nack):
                    with pytest.raises(CommitFenced):
                        await settle()
