"""Marks: a repeat is not stored again and is told its first offset; a lower epoch is a zombie's and is refused."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import ProducerFenced
from dynlog.log import Log
from dynlog.marks import EXPIRY_MS, UNKNOWN_OFFSET
from dynlog.open import open_log
from dynlog.record import Mark
from dynlog.timing import ManualClock
from tests.conformance.backend import (
    TOPIC,
    LogBackend,
    bodies,
    bounds,
    fill,
    kept_alive,
    marked,
    record,
    records,
    stored,
)


class RegistrationSuite(LogBackend):
    """Holds for every engine."""

    async def test_epochs_count_up_by_registration_over_handles_and_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log, open_log(log_url) as other:
                given = [await (log, other)[turn % 2].register_producer("p") for turn in range(4)]
                given += await asyncio.gather(*((log, other)[turn % 2].register_producer("p") for turn in range(6)))
            async with open_log(log_url) as log:
                given.append(await log.register_producer("p"))
        assert given[:4] == sorted(given[:4])
        assert len(set(given)) == 11
        assert given[-1] == max(given)

    async def test_producers_have_epochs_of_their_own(self, log: Log) -> None:
        first = await log.register_producer("p")
        for _ in range(5):
            await log.register_producer("q")
        assert await log.register_producer("p") == first + 1

    async def test_an_epoch_is_not_given_out_again_after_a_day_of_silence(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC)
        first = await timed.register_producer("p")
        await timed.append(TOPIC, 0, marked("p", first, 0, "a"))
        clock.advance(EXPIRY_MS / 1000 + 60)
        await timed.append(TOPIC, 0, records("another's, so that log time goes on"))
        assert await timed.register_producer("p") > first


class MarksSuite(LogBackend):
    """Holds for engines whose `Capabilities.checks_marks` is set."""

    async def test_the_engine_declares_that_it_checks_marks(self, log: Log) -> None:
        assert log.capabilities.checks_marks

    async def test_a_repeat_is_not_stored_again_and_told_its_first_offsets(self, log: Log) -> None:
        await fill(log, 1)
        first = await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        await log.append(TOPIC, 0, records("between"))
        again = await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        assert first.offsets == again.offsets == (1, 2)
        assert (first.duplicates, again.duplicates, again.end_offset) == (0, 2, 4)
        assert await bodies(log) == ["r0", "a", "b", "between"]

    async def test_of_a_partial_repeat_only_the_new_part_is_stored(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b", "c"))
        await log.append(TOPIC, 0, records("between"))
        appended = await log.append(TOPIC, 0, marked("p", 1, 1, "b", "c", "d", "e"))
        assert (appended.offsets, appended.duplicates, appended.end_offset) == ((1, 2, 4, 5), 2, 6)
        assert await bodies(log) == ["a", "b", "c", "between", "d", "e"]

    async def test_a_repeat_between_others_leaves_the_others_in_order(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        mixed = [record("x"), *marked("p", 1, 0, "a", "b"), *marked("q", 1, 0, "q0"), record("y")]
        appended = await log.append(TOPIC, 0, mixed)
        assert (appended.offsets, appended.duplicates) == ((2, 0, 1, 3, 4), 2)
        found = await stored(log)
        assert [item.record.mark for item in found] == [
            Mark("p", 1, 0), Mark("p", 1, 1), None, Mark("q", 1, 0), None,
        ]  # fmt: skip

    async def test_the_marks_of_every_producer_in_an_append_are_remembered(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        mixed = [*marked("p", 1, 0, "p0"), *marked("q", 1, 0, "q0"), *marked("p", 1, 1, "p1"), *marked("r", 1, 0, "r0")]
        await log.append(TOPIC, 0, mixed)
        again = await log.append(TOPIC, 0, mixed)
        assert (again.offsets, again.duplicates, again.end_offset) == ((0, 1, 2, 3), 4, 4)

    async def test_a_mark_that_stands_twice_in_one_append_is_stored_once(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        twice = marked("p", 1, 0, "a", "b") + marked("p", 1, 0, "a", "b", "c")
        appended = await log.append(TOPIC, 0, twice)
        assert (appended.offsets, appended.duplicates) == ((0, 1, 0, 1, 2), 2)
        assert await bodies(log) == ["a", "b", "c"]

    async def test_a_gap_in_the_sequences_is_taken_and_what_it_left_out_is_a_repeat_after(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a"))
        assert (await log.append(TOPIC, 0, marked("p", 1, 10, "k"))).offsets == (1,)
        late = await log.append(TOPIC, 0, marked("p", 1, 5, "f"))
        assert (late.offsets, late.duplicates) == ((UNKNOWN_OFFSET,), 1)
        assert await bodies(log) == ["a", "k"]

    async def test_a_first_seen_sequence_is_a_baseline_whatever_its_number(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        assert (await log.append(TOPIC, 0, marked("p", 7, 1 << 40, "a"))).offsets == (0,)
        assert (await log.append(TOPIC, 0, marked("p", 7, 0, "before"))).duplicates == 1
        assert (await log.append(TOPIC, 0, marked("p", 7, (1 << 40) + 1, "b"))).offsets == (1,)

    async def test_records_without_a_mark_are_stored_as_often_as_appended(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        for _ in range(3):
            assert (await log.append(TOPIC, 0, records("same"))).duplicates == 0
        assert await bodies(log) == ["same"] * 3

    async def test_sequences_count_per_producer_and_partition(self, log: Log) -> None:
        await log.create_topic(TOPIC, partitions=2)
        for producer in ("p", "q"):
            for partition in (0, 1):
                assert (await log.append(TOPIC, partition, marked(producer, 1, 0, producer))).duplicates == 0
        assert await bodies(log, TOPIC, 0) == await bodies(log, TOPIC, 1) == ["p", "q"]

    async def test_a_repeat_of_long_ago_is_not_stored_again_and_told_its_offset_or_that_it_is_unknown(
        self, log: Log
    ) -> None:
        await log.create_topic(TOPIC)
        for number in range(60):
            await log.append(TOPIC, 0, [*marked("p", 1, number, f"p{number}"), record("x")])
        oldest = await log.append(TOPIC, 0, marked("p", 1, 0, "p0"))
        newest = await log.append(TOPIC, 0, marked("p", 1, 59, "p59"))
        assert oldest.offsets in ((0,), (UNKNOWN_OFFSET,))
        assert newest.offsets == (118,)
        assert await bounds(log) == (0, 120)

    async def test_a_repeat_of_a_truncated_record_is_not_stored_again(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        await log.truncate(TOPIC, 0, 2)
        assert (await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))).duplicates == 2
        assert await bounds(log) == (2, 2)

    async def test_a_zombie_is_refused_after_its_successor_wrote(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        old = await log.register_producer("p")
        await log.append(TOPIC, 0, marked("p", old, 0, "old"))
        new = await log.register_producer("p")
        await log.append(TOPIC, 0, marked("p", new, 0, "new"))
        for sequence in (0, 1):  # a zombie's repeat is as refused as what it says anew
            with pytest.raises(ProducerFenced) as caught:
                await log.append(TOPIC, 0, marked("p", old, sequence, "zombie"))
            assert (caught.value.topic, caught.value.partition) == (TOPIC, 0)
        assert await bodies(log) == ["old", "new"]

    async def test_a_zombie_is_refused_from_its_successors_registration_on_if_the_engine_says_so(
        self, log: Log
    ) -> None:
        await log.create_topic(TOPIC)
        old = await log.register_producer("p")
        await log.append(TOPIC, 0, marked("p", old, 0, "old"))
        await log.register_producer("p")
        if log.capabilities.fences_at_registration:
            with pytest.raises(ProducerFenced):
                await log.append(TOPIC, 0, marked("p", old, 1, "zombie"))
            assert await bodies(log) == ["old"]
        else:
            await log.append(TOPIC, 0, marked("p", old, 1, "not yet known as a zombie"))

    async def test_one_fenced_record_keeps_the_whole_append_out(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 2, 0, "new"))
        with pytest.raises(ProducerFenced):
            await log.append(TOPIC, 0, [record("x"), *marked("q", 1, 0, "q0"), *marked("p", 1, 5, "zombie")])
        assert await bodies(log) == ["new"]
        assert (await log.append(TOPIC, 0, marked("q", 1, 0, "q0"))).duplicates == 0

    async def test_a_lower_epoch_after_a_higher_one_in_one_append_keeps_it_out(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        with pytest.raises(ProducerFenced):
            await log.append(TOPIC, 0, [*marked("p", 2, 0, "new"), *marked("p", 1, 0, "zombie")])
        assert await bodies(log) == []
        assert (await log.append(TOPIC, 0, marked("p", 1, 0, "first"))).offsets == (0,)

    async def test_a_higher_epoch_starts_a_new_count(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        assert (await log.append(TOPIC, 0, marked("p", 2, 0, "c"))).offsets == (2,)
        assert (await log.append(TOPIC, 0, marked("p", 2, 0, "c"))).offsets == (2,)
        assert await bodies(log) == ["a", "b", "c"]

    async def test_marks_are_known_after_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log:
                await log.create_topic(TOPIC)
                await log.append(TOPIC, 0, marked("p", 2, 0, "a", "b"))
            async with open_log(log_url) as log:
                assert (await log.append(TOPIC, 0, marked("p", 2, 0, "a", "b", "c"))).offsets == (0, 1, 2)
                with pytest.raises(ProducerFenced):
                    await log.append(TOPIC, 0, marked("p", 1, 9, "zombie"))
                assert await bodies(log) == ["a", "b", "c"]

    async def test_the_same_append_through_many_handles_at_once_is_stored_once(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        async with open_log(log_url) as other:
            outcomes = await asyncio.gather(
                *((log, other)[i % 2].append(TOPIC, 0, marked("p", 1, 0, "a", "b")) for i in range(20))
            )
        assert {outcome.offsets for outcome in outcomes} == {(0, 1)}
        assert sorted(outcome.duplicates for outcome in outcomes) == [0] + [2] * 19
        assert await bodies(log) == ["a", "b"]

    async def test_a_mark_expires_a_day_of_log_time_after_its_producers_last_record(
        self, timed: Log, clock: ManualClock
    ) -> None:
        await timed.create_topic(TOPIC)
        await timed.append(TOPIC, 0, marked("p", 2, 0, "a"))
        clock.advance(EXPIRY_MS / 1000 - 60)
        assert (await timed.append(TOPIC, 0, marked("p", 2, 0, "a", "b"))).duplicates == 1
        clock.advance(EXPIRY_MS / 1000 - 60)
        assert (await timed.append(TOPIC, 0, marked("p", 2, 1, "b"))).duplicates == 1
        clock.advance(120)
        appended = await timed.append(TOPIC, 0, marked("p", 2, 0, "first seen again"))
        assert (appended.offsets, appended.duplicates) == ((2,), 0)
