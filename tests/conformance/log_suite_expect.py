"""Compare-and-append: an append that names the end is stored there or not at all, and a loser is never seen."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.batch import Position
from dynlog.errors import ConfigurationError, MalformedRecord, OffsetConflict, PartitionNotFound, TopicNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.topics import Appended
from tests.conformance.backend import (
    PATIENCE_S,
    TOPIC,
    LogBackend,
    after_turns,
    bodies,
    bounds,
    fill,
    kept_alive,
    marked,
    numbered,
    records,
    stored,
)


async def end_of(log: Log) -> int:
    return (await bounds(log))[1]


class ExpectSuite(LogBackend):
    """Holds for every engine; where log order decides, a loser takes offsets, and these are holes."""

    async def test_an_append_that_expects_the_end_where_it_is_is_stored_there(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        first = await log.append(TOPIC, 0, records("a", "b"), expect=0)
        second = await log.append(TOPIC, 0, records("c"), expect=2)
        assert (first.offsets, first.end_offset, second.offsets) == ((0, 1), 2, (2,))
        assert await bodies(log) == ["a", "b", "c"]

    @pytest.mark.parametrize("expected", [0, 2, 4, 1_000_000, 2**53 + 1, 2**63, 10**400], ids=lambda n: str(n)[:20])
    async def test_an_append_that_expects_another_end_is_told_and_never_seen(self, log: Log, expected: int) -> None:
        await fill(log, 3)
        with pytest.raises(OffsetConflict, match=str(expected)) as caught:
            await log.append(TOPIC, 0, records("x", "y"), expect=expected)
        told = caught.value
        assert (told.topic, told.partition, told.expected, told.end) == (TOPIC, 0, expected, await end_of(log))
        assert told.end == 3 or not log.capabilities.compare_and_append
        assert await bodies(log) == ["r0", "r1", "r2"]

    async def test_a_loser_in_an_empty_partition_leaves_it_empty_for_every_reader(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, records("x"), expect=7)
        assert await stored(log) == []
        await log.append(TOPIC, 0, records("a"))
        assert await bodies(log) == ["a"]

    async def test_a_loser_reads_on_to_the_end_and_wins_there(self, log: Log) -> None:
        await fill(log, 3)
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, records("x"), expect=1)
        won = await log.append(TOPIC, 0, records("a"), expect=await end_of(log))
        assert won.end_offset == await end_of(log)
        assert await bodies(log) == ["r0", "r1", "r2", "a"]

    @pytest.mark.parametrize("many", [1, 5])
    async def test_of_many_that_expect_the_same_end_exactly_one_wins(self, log: Log, log_url: str, many: int) -> None:
        await log.create_topic(TOPIC)
        winners: list[str] = []
        async with open_log(log_url) as other:
            for turn in range(5):
                end = await end_of(log)
                outcomes = await asyncio.gather(
                    *(
                        (log, other)[i % 2].append(TOPIC, 0, numbered(many, f"{turn}/{i}/"), expect=end)
                        for i in range(8)
                    ),
                    return_exceptions=True,
                )
                won = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Appended)]
                assert len(won) == 1, outcomes
                assert sum(isinstance(outcome, OffsetConflict) for outcome in outcomes) == 7
                winners += [f"{turn}/{won[0]}/{n}" for n in range(many)]
            assert await bodies(log) == await bodies(other) == winners

    async def test_conditional_appends_beside_others_win_only_where_they_expected(self, log: Log) -> None:
        await fill(log, 1)
        expected = {n: 2 if n % 4 == 3 else 3 + 6 * (n // 4) for n in range(1, 40, 2)}  # the last is so, in order
        appends = (log.append(TOPIC, 0, records(f"{n}", f"{n}'"), expect=expected.get(n)) for n in range(40))
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        found = {item.offset: bytes(item.record.parts[0]).decode() for item in await stored(log)}
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Appended):
                assert [found.pop(offset) for offset in outcome.offsets] == [f"{number}", f"{number}'"]
                assert outcome.offsets[0] == expected.get(number, outcome.offsets[0])
            else:
                assert isinstance(outcome, OffsetConflict), outcome
                assert number in expected
        assert found == {0: "r0"}

    async def test_a_waiting_read_sleeps_through_a_loser_and_wakes_for_the_next(self, log: Log) -> None:
        await fill(log, 2)
        reading = asyncio.create_task(_first_from(log, await log.position(TOPIC, 0, "end")))
        await after_turns(5)
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, records("x"), expect=1)
        await log.append(TOPIC, 0, records("a"))
        async with asyncio.timeout(PATIENCE_S):
            assert await reading == "a"

    async def test_a_repeat_of_an_append_that_was_stored_is_told_its_first_offsets(self, log: Log) -> None:
        await fill(log, 2)
        again = marked("p", 1, 0, "a", "b")
        first = await log.append(TOPIC, 0, again, expect=2)
        await log.append(TOPIC, 0, records("another's"))
        second = await log.append(TOPIC, 0, again, expect=2)
        assert first.offsets == second.offsets == (2, 3)
        assert (first.duplicates, second.duplicates) == (0, 2)
        assert await bodies(log) == ["r0", "r1", "a", "b", "another's"]

    async def test_a_marked_loser_may_try_again_under_the_same_mark(self, log: Log) -> None:
        await fill(log, 2)
        again = marked("p", 1, 0, "a")
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, again, expect=1)
        end = await end_of(log)
        assert (await log.append(TOPIC, 0, again, expect=end)).offsets == (end,)
        assert await bodies(log) == ["r0", "r1", "a"]

    async def test_what_is_new_beside_a_repeat_is_stored_only_at_the_expected_end(self, log: Log) -> None:
        await fill(log, 2)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a"), expect=2)
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"), expect=2)
        assert await bodies(log) == ["r0", "r1", "a"]

    async def test_a_cancelled_conditional_append_is_stored_whole_where_it_expected_or_never_seen(
        self, log: Log
    ) -> None:
        await log.create_topic(TOPIC)
        for turns in range(16):
            before, end = await bodies(log), await end_of(log)
            task = asyncio.create_task(log.append(TOPIC, 0, records(f"{turns}", f"{turns}'"), expect=end))
            await after_turns(turns // 2)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE_S)
            assert task.done()
            # What was let go may still be under way, in front of this:
            await log.append(TOPIC, 0, records("next"))
            assert await bodies(log) in ([*before, "next"], [*before, f"{turns}", f"{turns}'", "next"])

    async def test_a_partition_that_was_truncated_to_its_end_still_ends_there(self, log: Log) -> None:
        await fill(log, 3)
        await log.truncate(TOPIC, 0, 3)
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, records("x"), expect=0)
        end = await end_of(log)
        assert (await log.append(TOPIC, 0, records("a"), expect=end)).offsets == (end,)
        assert await bodies(log) == ["a"]

    async def test_the_end_is_the_partitions_own(self, log: Log) -> None:
        await fill(log, 3, partitions=2)
        assert (await log.append(TOPIC, 1, records("a"), expect=0)).offsets == (0,)
        with pytest.raises(OffsetConflict):
            await log.append(TOPIC, 0, records("x"), expect=1)
        assert await bodies(log, TOPIC, 1) == ["a"]

    async def test_what_was_expected_holds_after_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log:
                await fill(log, 2)
                with pytest.raises(OffsetConflict):
                    await log.append(TOPIC, 0, records("x"), expect=1)
            async with open_log(log_url) as log:
                assert await bodies(log) == ["r0", "r1"]
                await log.append(TOPIC, 0, records("a"), expect=await end_of(log))
                assert await bodies(log) == ["r0", "r1", "a"]

    async def test_what_is_wrong_with_an_append_is_told_before_the_conflict(self, log: Log) -> None:
        await fill(log, 1)
        with pytest.raises(ConfigurationError, match="expect=-1"):
            await log.append(TOPIC, 0, records("x"), expect=-1)
        with pytest.raises(TopicNotFound):
            await log.append("missing", 0, records("x"), expect=9)
        with pytest.raises(PartitionNotFound):
            await log.append(TOPIC, 1, records("x"), expect=9)
        with pytest.raises(MalformedRecord):
            await log.append(TOPIC, 0, [], expect=9)
        assert await bodies(log) == ["r0"]


async def _first_from(log: Log, position: Position) -> str:
    while True:
        batch = await log.read(position, wait=PATIENCE_S)
        if len(batch):
            return bytes(next(iter(batch)).record.parts[0]).decode()
        position = batch.next_position
