"""Handlers and records at their worst: whatever a handler does, no record is lost, doubled, or the end of its group."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from dynlog.codec import encoded_bound
from dynlog.consumer import Consumer
from dynlog.dead_letters import FOR_GROUP, DeadLetters, dead_topic
from dynlog.errors import ConfigurationError
from dynlog.intake import ConsumerSettings, Guarantee
from dynlog.log import Log
from dynlog.received import Delivery
from dynlog.record import Record
from dynlog.retry import RetryPolicy
from tests.conformance.backend import PATIENCE_S, TOPIC, bodies, eventually, fill, record
from tests.consume.backend import (
    GROUP,
    QUICK,
    ConsumeBackend,
    body,
    committed,
    member,
    nothing_comes,
    spread,
    take,
    until,
)
from tests.faulty import FaultyLog

ONE_ATTEMPT = RetryPolicy(max_attempts=1)


class UnspeakableError(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class MisuseSuite(ConsumeBackend):
    async def test_a_handler_whose_own_work_was_cancelled_has_failed_and_its_record_comes_again(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 2)
        seen: list[tuple[str, int]] = []

        async def handle(delivery: Delivery) -> None:
            seen.append((body(delivery), delivery.attempt))
            if seen == [("r0", 1)]:
                inner = asyncio.create_task(asyncio.Event().wait())
                inner.cancel()
                await inner

        async with member(log_url, ConsumerSettings(retry=QUICK)) as consumer:
            running = asyncio.create_task(consumer.run(handle))
            await until(lambda: consumer.counts.done == 2 or running.done(), "both are handled")
            assert not running.done(), "the only worker went away"
            await consumer.stop()
            await running
        assert sorted(seen) == [("r0", 1), ("r0", 2), ("r1", 1)]

    async def test_who_gave_a_record_back_has_no_say_in_its_next_attempt(self, log: Log, log_url: str) -> None:
        """The handler that rejected it goes on and returns, while the next attempt is at work and then fails."""
        await fill(log, 1)
        at_work, may_fail = asyncio.Event(), asyncio.Event()
        attempts: list[int] = []

        async def handle(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                await delivery.nack(delay=0)
                await at_work.wait()
            elif delivery.attempt == 2:
                at_work.set()
                await may_fail.wait()
                raise ValueError("failed after all")

        async with member(log_url) as consumer:
            running = asyncio.create_task(consumer.run(handle, concurrency=2))
            await at_work.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            assert consumer.counts.done == 0, "the first attempt acknowledged the second"
            may_fail.set()
            await until(lambda: consumer.counts.done == 1, "the third attempt went through")
            await consumer.stop()
            await running
        assert attempts == [1, 2, 3]

    async def test_a_delivery_that_was_given_back_cannot_be_settled_again_when_it_came_again(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            first = await consumer.next(PATIENCE_S)
            assert first is not None
            await first.nack(delay=0)
            second = await consumer.next(PATIENCE_S)
            assert second is not None
            for settle in (first.ack, first.nack):
                with pytest.raises(ConfigurationError):
                    await settle()
            await second.ack()
        assert await committed(log) == {0: 1}

    async def test_effects_are_appended_once_although_the_delivery_is_acknowledged_twice_at_once(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        await log.create_topic("effects")
        async with member(log_url) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            delivery.emit("effects", record("e"))
            done = await asyncio.gather(delivery.ack(), delivery.ack(), return_exceptions=True)
        assert [type(outcome) for outcome in done] == [type(None), ConfigurationError]
        assert await bodies(log, "effects") == ["e"]

    async def test_an_acknowledgement_that_failed_may_be_repeated(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            delivery.emit("effects", record("e"))
            with pytest.raises(Exception, match="effects"):
                await delivery.ack()
            await log.create_topic("effects")
            await delivery.ack()
        assert await bodies(log, "effects") == ["e"]
        assert await committed(log) == {0: 1}

    @pytest.mark.parametrize("error", [ValueError("x" * 40_000_000), UnspeakableError()], ids=["long", "unspeakable"])
    async def test_a_record_is_parked_whatever_its_error_says(self, log: Log, log_url: str, error: Exception) -> None:
        await fill(log, 1)
        async with member(log_url, ConsumerSettings(retry=ONE_ATTEMPT)) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            await delivery.nack(error=error)
        (letter,) = await DeadLetters(log, TOPIC).all()
        assert letter.story.error.startswith(type(error).__name__)
        assert len(letter.story.error) <= 1_000

    async def test_a_record_that_cannot_be_parked_blocks_its_key_and_ends_nobody(self, log: Log, log_url: str) -> None:
        """It is as large as the log takes one, so there is no room for its story."""
        await log.create_topic(TOPIC)
        limit = log.capabilities.max_batch_bytes
        largest = Record(parts=(bytes(limit - 2 * encoded_bound(Record(parts=(b"",)))),), key=b"large")
        while True:
            try:
                await log.append(TOPIC, 0, [largest])
                break
            except Exception:
                largest = Record(parts=(bytes(len(largest.parts[0]) - 20),), key=b"large")
        await log.append(TOPIC, 0, [record("small", "other")])
        settings = ConsumerSettings(retry=ONE_ATTEMPT, max_in_flight_bytes=4 * limit)
        async with member(log_url, settings) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            assert delivery.record.key == b"large"
            await delivery.nack()
            assert [body(d) for d in await take(consumer, 1)] == ["small"]
            assert await committed(log) == {0: 0}

    async def test_at_most_once_is_handed_out_once_although_the_log_is_away_when_it_is_to_be_parked(
        self, log: Log
    ) -> None:
        await fill(log, 2)
        faulty = FaultyLog(log)
        settings = ConsumerSettings(guarantee=Guarantee.AT_MOST_ONCE, retry=RetryPolicy(first_s=0.01, most_s=0.02))
        await log.create_topic(dead_topic(TOPIC))
        async with Consumer.broadcast(faulty.log, TOPIC, name=GROUP, settings=settings) as consumer:
            delivery = await consumer.next(PATIENCE_S)
            assert delivery is not None
            faulty.down = True
            rejecting = asyncio.create_task(delivery.nack())
            await asyncio.sleep(0.1)
            faulty.down = False
            await rejecting
            assert [(body(d), d.attempt) for d in await take(consumer, 1)] == [("r1", 1)]
            await nothing_comes(consumer)
        assert len(await DeadLetters(log, TOPIC).all()) == 1

    async def test_a_group_that_passed_over_everything_has_nothing_left_to_do(self, log: Log, log_url: str) -> None:
        """What is meant for another group is passed without an acknowledgement that would lead to a commit."""
        await log.create_topic(TOPIC)
        async with member(log_url) as consumer:
            await until(lambda: consumer.partitions == {0}, "it reads")
            await log.append(TOPIC, 0, [Record(parts=(b"x",), headers={FOR_GROUP: b"others"})] * 3)

            async def passed() -> bool:
                return await committed(log) == {0: 3}

            await eventually(passed, "the group's position is at the end")

    async def test_a_passer_by_that_skips_what_was_truncated_goes_on(self, log: Log) -> None:
        await fill(log, 6)
        await log.truncate(TOPIC, 0, 4, force=True)
        async with Consumer.broadcast(log, TOPIC, settings=ConsumerSettings(start=1, on_truncated="skip")) as consumer:
            assert [body(d) for d in await take(consumer, 2)] == ["r4", "r5"]

    async def test_fewer_than_one_worker_is_refused(self, log: Log, log_url: str) -> None:
        await fill(log, 1)

        async def handle(delivery: Delivery) -> None: ...

        async with member(log_url) as consumer:
            with pytest.raises(ConfigurationError):
                await consumer.run(handle, concurrency=0)

    async def test_a_record_that_is_never_done_lets_its_partition_go_on_so_far_and_the_others_on_and_on(
        self, log: Log, log_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("dynlog.lane.MOST_AHEAD", 50)
        monkeypatch.setattr("dynlog.intake.HELD_UP_S", 0.1)
        await spread(log, 200, 2)
        async with member(log_url) as consumer:
            hanging = await consumer.next(PATIENCE_S)
            assert hanging is not None
            seen = Counter(delivery.partition for delivery in await take(consumer, 249))
            assert seen == {hanging.partition: 49, 1 - hanging.partition: 200}
            await nothing_comes(consumer)
            await consumer.commit()
            positions = await committed(log)
            assert (positions.get(hanging.partition, 0), positions[1 - hanging.partition]) == (0, 200)
            told = f"{TOPIC}/{hanging.partition}: the record at offset {hanging.offset} is not done although 50 "
            await until(lambda: any(message.startswith(told) for message in caplog.messages), "it is told")
            await hanging.ack()
            assert {delivery.partition for delivery in await take(consumer, 150)} == {hanging.partition}
            await consumer.commit()
            assert await committed(log) == {0: 200, 1: 200}
