"""Deliveries: order and retries per key, dead letters, bounds, effects, and what is passed over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace

import pytest

from dynlog.consumer import Consumer
from dynlog.dead_letters import DeadLetters, Story, dead_topic, park
from dynlog.errors import CommitFenced, ConfigurationError, LogDiverged, OffsetTruncated, TopicNotFound
from dynlog.intake import ConsumerSettings, Guarantee
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.received import Delivery
from dynlog.record import Control, Mark, Record
from dynlog.retry import RetryPolicy
from tests.conformance.backend import PATIENCE_S, TOPIC, fill, marked, numbered, record
from tests.consume.backend import (
    GROUP,
    QUICK,
    ConsumeBackend,
    bodies_of,
    body,
    committed,
    keyed,
    member,
    nothing_comes,
    take,
    until,
)


class DeliverySuite(ConsumeBackend):
    async def test_records_of_a_key_are_handled_in_order_while_other_keys_run_at_once(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, keyed(60, 6))
        order: dict[bytes, list[int]] = {}
        at_work: set[bytes] = set()
        most = 0

        async def handle(delivery: Delivery) -> None:
            nonlocal most
            key = delivery.record.key
            assert key is not None
            assert key not in at_work, "two records of one key at once"
            at_work.add(key)
            most = max(most, len(at_work))
            await asyncio.sleep(0.002)
            order.setdefault(key, []).append(int(body(delivery)[1:]))
            at_work.discard(key)

        async with member(log_url) as consumer:
            running = asyncio.create_task(consumer.run(handle, concurrency=6))
            await until(lambda: sum(map(len, order.values())) == 60, "all handled")
            await consumer.stop()
            await running
        assert all(numbers == sorted(numbers) for numbers in order.values())
        assert most > 1

    async def test_a_failing_record_blocks_its_key_and_nothing_else(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [record(b, k) for b, k in (("a0", "a"), ("a1", "a"), ("b0", "b"), ("b1", "b"))])
        async with member(log_url) as consumer:
            first = await consumer.next(PATIENCE_S)
            assert first is not None
            assert (body(first), first.attempt) == ("a0", 1)
            await first.nack(delay=0.4)
            assert [body(d) for d in await take(consumer, 2)] == ["b0", "b1"]
            again, behind = await take(consumer, 2)
            assert (body(again), again.attempt, again.id) == ("a0", 2, first.id)
            assert body(behind) == "a1"

    async def test_a_nack_with_a_delay_comes_again_no_sooner(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            first = await consumer.next(PATIENCE_S)
            assert first is not None
            begun = time.monotonic()
            await first.nack(delay=0.3)
            await take(consumer, 1)
            assert time.monotonic() - begun >= 0.3

    async def test_a_record_that_always_fails_is_parked_with_its_story_and_the_group_goes_on(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC)
        original = Record(parts=(b"poison", b"two"), key=b"k", headers={"trace": b"1"}, timestamp_ms=7)
        await log.append(TOPIC, 0, [original, *keyed(2, 1)])
        done: list[str] = []

        async def handle(delivery: Delivery) -> None:
            if body(delivery) == "poison":
                raise ValueError("cannot be eaten")
            done.append(body(delivery))

        async with member(log_url, ConsumerSettings(retry=QUICK)) as consumer:
            running = asyncio.create_task(consumer.run(handle))
            await until(lambda: len(done) == 2 and consumer.counts.parked == 1, "the others are handled, it is parked")
            await consumer.stop()
            await running
            assert (consumer.counts.parked, consumer.counts.retried, consumer.counts.done) == (1, 2, 2)
        assert await committed(log) == {0: 3}
        (letter,) = await DeadLetters(log, TOPIC).all()
        story = letter.story
        assert (story.group, story.topic, story.partition, story.offset, story.attempts) == (GROUP, TOPIC, 0, 0, 3)
        assert story.error == "ValueError: cannot be eaten"
        assert 0 < story.first_ms <= story.last_ms
        parked = letter.record
        assert (parked.parts, parked.key, parked.headers["trace"], parked.timestamp_ms) == (
            original.parts, b"k", b"1", 7,
        )  # fmt: skip

    async def test_parking_a_record_twice_leaves_one_letter(self, log: Log) -> None:
        """As after a crash between parking and commit."""
        await fill(log, 3)
        topic = await log.topic(TOPIC)
        story = Story(GROUP, TOPIC, topic.incarnation, 0, 2, 5, "E", 1, 2)
        await park(log, topic, numbered(1)[0], story)
        await park(log, topic, numbered(1)[0], replace(story, attempts=9, last_ms=3))
        await park(log, topic, numbered(1)[0], replace(story, offset=1))
        await park(log, topic, numbered(1)[0], replace(story, group="others"))
        assert len(await bodies_of(log, dead_topic(TOPIC))) == 3
        letters = await DeadLetters(log, TOPIC).all()
        assert sorted((x.story.group, x.story.offset, x.story.attempts) for x in letters) == [
            ("others", 2, 5), (GROUP, 1, 5), (GROUP, 2, 5),
        ]  # fmt: skip

    async def test_a_replayed_letter_comes_once_for_its_group_only_and_is_marked(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url, ConsumerSettings(retry=RetryPolicy(max_attempts=1))) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            await delivery.nack()
            dead = DeadLetters(log, TOPIC)
            (letter,) = await dead.all()
            assert await dead.replay(letter)
            assert await dead.replay(letter), "a run that was killed in between cannot know"
            (letter,) = await dead.all()
            assert letter.outcome == "replayed"
            assert not await dead.replay(letter)
            assert [body(d) for d in await take(consumer, 1)] == ["r0"]
            await nothing_comes(consumer)
            async with member(log_url, group="others") as other:
                assert [body(d) for d in await take(other, 1)] == ["r0"]
                await nothing_comes(other)
                assert other.counts.not_ours == 1

    async def test_what_is_in_flight_is_bounded_in_records_and_bytes(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [Record(parts=(bytes(1000),)) for _ in range(50)])
        async with member(log_url, ConsumerSettings(max_in_flight=4)) as consumer:
            held = [await consumer.next(PATIENCE_S) for _ in range(4)]
            await nothing_comes(consumer)
            assert consumer.in_flight == 4
            assert held[0] is not None
            await held[0].ack()
            assert await consumer.next(PATIENCE_S) is not None
            await nothing_comes(consumer, 0.1)
        async with member(log_url, ConsumerSettings(max_in_flight_bytes=3200), group="bytes") as consumer:
            assert [await consumer.next(PATIENCE_S) for _ in range(3)]
            await nothing_comes(consumer)

    async def test_stop_waits_for_the_handlers_and_gives_up_at_its_deadline(self, log: Log, log_url: str) -> None:
        await fill(log, 2)
        begun, may_end = asyncio.Event(), asyncio.Event()
        ended: list[str] = []

        async def handle(delivery: Delivery) -> None:
            begun.set()
            await may_end.wait()
            ended.append(body(delivery))

        async with member(log_url) as consumer:
            running = asyncio.create_task(consumer.run(handle))
            await begun.wait()
            stopping = asyncio.create_task(consumer.stop())
            may_end.set()
            await asyncio.gather(stopping, running)
        assert ended == ["r0"]
        assert await committed(log) == {0: 1}
        may_end.clear()
        begun.clear()
        async with member(log_url, ConsumerSettings(drain_s=0.1)) as consumer:
            running = asyncio.create_task(consumer.run(handle))
            await begun.wait()
            await consumer.stop()
            await running
        assert ended == ["r0"]
        assert await committed(log) == {0: 1}, "what was given up is delivered again"

    async def test_a_delivery_is_settled_once(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            (delivery,) = await take(consumer, 1)
            for settle in (delivery.ack, delivery.nack):
                with pytest.raises(ConfigurationError):
                    await settle()

    async def test_no_task_is_left_when_a_consumer_is_closed_or_cancelled(self, log: Log, log_url: str) -> None:
        await fill(log, 3)
        before = asyncio.all_tasks()

        async def forever(delivery: Delivery) -> None:
            await asyncio.Event().wait()

        async with member(log_url) as consumer:
            running = asyncio.create_task(consumer.run(forever, concurrency=2))
            await until(lambda: consumer.counts.handed > 0, "it is at work")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert {t for t in asyncio.all_tasks() - before if "dynlog" in t.get_name()} == set()

    # What is passed over, and what is not

    async def test_truncated_records_raise_unless_the_settings_say_skip_and_then_are_counted(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 6)
        await log.open_generation(GROUP, TOPIC, {0: 1})
        await log.truncate(TOPIC, 0, 4, force=True)
        async with member(log_url) as consumer:
            with pytest.raises(OffsetTruncated) as caught:
                await take(consumer, 1)
            assert caught.value.earliest == 4
        async with member(log_url, ConsumerSettings(on_truncated="skip")) as consumer:
            assert [body(d) for d in await take(consumer, 2)] == ["r4", "r5"]
            assert consumer.counts.truncated == 3

    async def test_a_topic_that_is_created_anew_ends_its_consumers_and_its_groups_begin_anew(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 3)
        async with member(log_url) as consumer:
            await take(consumer, 3)
            await log.delete_topic(TOPIC)
            await fill(log, 1)
            with pytest.raises((LogDiverged, TopicNotFound)):
                await take(consumer, 1)
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 1)] == ["r0"]

    async def test_a_tombstone_is_delivered_as_what_it_is(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [Record(parts=(b"gone",), key=b"k", control=Control.TOMBSTONE)])
        async with member(log_url) as consumer:
            (delivery,) = await take(consumer, 1)
            assert delivery.record.control is Control.TOMBSTONE

    # Effects

    async def test_effects_of_a_delivery_that_is_handled_again_are_in_the_log_once(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC)
        await log.create_topic("effects", partitions=3)
        await log.append(TOPIC, 0, keyed(40, 5))
        exactly = ConsumerSettings(guarantee=Guarantee.EXACTLY_ONCE)
        handled: Counter[str] = Counter()
        for _ in range(2):  # the second one stands for what comes again after a crash
            async with member(log_url, exactly) as consumer:
                for _ in range(40):
                    delivery = await consumer.next(PATIENCE_S)
                    assert delivery is not None
                    handled[body(delivery)] += 1
                    delivery.emit("effects", record(f"{body(delivery)}a", "x"))
                    delivery.emit("effects", record(f"{body(delivery)}b"))
                    await delivery.ack()
            await log.open_generation(GROUP, TOPIC, {0: 0})
        assert set(handled.values()) == {2}
        assert sorted(await bodies_of(log, "effects")) == sorted(f"r{n}{e}" for n in range(40) for e in "ab")

    @pytest.mark.parametrize("guarantee", [Guarantee.AT_LEAST_ONCE, Guarantee.EXACTLY_ONCE])
    async def test_no_effect_is_lost_when_keys_finish_in_another_order_than_they_lie(
        self, log: Log, log_url: str, guarantee: Guarantee
    ) -> None:
        await log.create_topic(TOPIC)
        await log.create_topic("effects")
        await log.append(TOPIC, 0, keyed(200, 200))

        async def handle(delivery: Delivery) -> None:
            await asyncio.sleep(0.02 if delivery.offset % 3 else 0.0)
            delivery.emit("effects", record(body(delivery)))

        async with member(log_url, ConsumerSettings(guarantee=guarantee)) as consumer:
            running = asyncio.create_task(consumer.run(handle, concurrency=100))
            await until(lambda: consumer.counts.done == 200, "all handled")
            await consumer.stop()
            await running
        assert sorted(await bodies_of(log, "effects")) == sorted(f"r{n}" for n in range(200))

    async def test_effects_that_are_to_happen_once_need_a_name(self, log: Log) -> None:
        await fill(log, 1)
        with pytest.raises(ConfigurationError):
            async with Consumer.broadcast(log, TOPIC, settings=ConsumerSettings(guarantee=Guarantee.EXACTLY_ONCE)):
                pass

    async def test_an_attempt_that_fails_leaves_no_effect(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        await log.create_topic("effects")
        async with member(log_url, ConsumerSettings(guarantee=Guarantee.EXACTLY_ONCE, retry=QUICK)) as consumer:

            async def handle(delivery: Delivery) -> None:
                delivery.emit("effects", record(f"attempt {delivery.attempt}"))
                if delivery.attempt < 3:
                    raise ValueError("not yet")

            running = asyncio.create_task(consumer.run(handle))
            await until(lambda: consumer.counts.done == 1, "the third attempt went through")
            await consumer.stop()
            await running
        assert await bodies_of(log, "effects") == ["attempt 3"]

    async def test_at_most_once_commits_a_record_before_it_is_handed_out(self, log: Log, log_url: str) -> None:
        await fill(log, 3)
        async with member(log_url, ConsumerSettings(guarantee=Guarantee.AT_MOST_ONCE)) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            assert await committed(log) == {0: 1}
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 2)] == ["r1", "r2"]

    # Broadcast

    async def test_every_broadcast_consumer_sees_everything_and_a_name_remembers_its_place(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 4)
        async with open_log(log_url) as other:
            async with Consumer.broadcast(log, TOPIC, name="a") as one, Consumer.broadcast(other, TOPIC) as two:
                for consumer in (one, two):
                    assert [body(d) for d in await take(consumer, 4)] == [f"r{n}" for n in range(4)]
            await log.append(TOPIC, 0, [record("late")])
            async with Consumer.broadcast(log, TOPIC, name="a") as one:
                assert [body(d) for d in await take(one, 1)] == ["late"]
        names = [state.holder.name for state in await log.holders(TOPIC)]
        assert names == ["group:a"], "who had no name leaves no trace"

    async def test_opening_a_broadcast_name_again_ends_the_older_one(self, log: Log, log_url: str) -> None:
        await fill(log, 4)
        async with open_log(log_url) as other, Consumer.broadcast(log, TOPIC, name="a") as older:
            held = await older.next(PATIENCE_S)
            async with Consumer.broadcast(other, TOPIC, name="a") as newer:
                assert [body(d) for d in await take(newer, 2)] == ["r0", "r1"]
                assert held is not None
                await held.ack()
                with pytest.raises(CommitFenced):
                    await older.commit()
                await newer.commit()
                assert await committed(log, "a") == {0: 2}

    async def test_a_consumer_without_a_name_keeps_records_while_it_is_there(self, log: Log) -> None:
        await fill(log, 4)
        async with Consumer.broadcast(log, TOPIC) as consumer:
            await take(consumer, 1)
            await consumer.commit()
            assert (await log.truncate(TOPIC, 0, 4)).earliest == 1
        assert (await log.truncate(TOPIC, 0, 4)).earliest == 4

    async def test_repeats_and_zombies_records_are_delivered_on_no_engine(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        await log.append(TOPIC, 0, marked("p", 1, 1, "b", "c"))
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 3)] == ["a", "b", "c"]
        await log.append(TOPIC, 0, [*marked("p", 1, 2, "c"), Record(parts=(b"d",), mark=Mark("q", 0, 0))])
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 1)] == ["d"], "a repeat of what an earlier member had"
            await nothing_comes(consumer)

    async def test_the_dead_letter_topic_has_as_many_partitions_as_the_topic(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC, partitions=3)
        await log.append(TOPIC, 2, numbered(1))
        async with member(log_url, ConsumerSettings(retry=RetryPolicy(max_attempts=1))) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            await delivery.nack()
        assert (await log.topic(dead_topic(TOPIC))).partitions == 3
        (letter,) = await DeadLetters(log, TOPIC).all()
        assert letter.partition == 2
