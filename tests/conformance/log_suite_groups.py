"""Groups: commits are monotonic within a generation and fenced by it; a seek is a new generation."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import CommitFenced, ConfigurationError, PartitionNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.timing import ManualClock
from dynlog.topics import NAMED_EXPIRY_S, HolderKind
from tests.conformance.backend import TOPIC, LogBackend, bounds, fill, kept_alive, numbered


async def committed(log: Log, group: str = "g") -> dict[int, int]:
    return dict((await log.committed(group, TOPIC)).positions)


class GroupsSuite(LogBackend):
    async def test_a_group_that_never_committed_has_generation_zero_and_no_positions(self, log: Log) -> None:
        await fill(log, 3)
        state = await log.committed("g", TOPIC)
        assert (state.group, state.generation, dict(state.positions)) == ("g", 0, {})

    async def test_a_commit_is_told_and_kept(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log, open_log(log_url) as other:
                await fill(log, 3, partitions=2)
                generation = await log.open_generation("g", TOPIC)
                assert generation >= 1
                state = await log.commit("g", TOPIC, {0: 2, 1: 0}, generation=generation)
                assert (state.group, state.generation, dict(state.positions)) == ("g", generation, {0: 2, 1: 0})
                assert await other.committed("g", TOPIC) == state
            async with open_log(log_url) as log:
                assert await log.committed("g", TOPIC) == state

    async def test_a_commit_of_some_partitions_leaves_the_others(self, log: Log) -> None:
        await fill(log, 3, partitions=2)
        await log.append(TOPIC, 1, numbered(3))
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 2, 1: 1}, generation=generation)
        state = await log.commit("g", TOPIC, {1: 3}, generation=generation)
        assert dict(state.positions) == {0: 2, 1: 3}

    async def test_within_a_generation_an_offset_never_goes_back(self, log: Log) -> None:
        await fill(log, 5, partitions=2)
        await log.append(TOPIC, 1, numbered(5))
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 4, 1: 1}, generation=generation)
        state = await log.commit("g", TOPIC, {0: 2, 1: 3}, generation=generation)
        assert dict(state.positions) == await committed(log) == {0: 4, 1: 3}

    async def test_commits_at_once_leave_the_highest(self, log: Log, log_url: str) -> None:
        await fill(log, 20)
        generation = await log.open_generation("g", TOPIC)
        async with open_log(log_url) as other:
            await asyncio.gather(
                *((log, other)[n % 2].commit("g", TOPIC, {0: n * 7 % 20}, generation=generation) for n in range(20))
            )
        assert await committed(log) == {0: 19}

    async def test_a_new_generation_fences_all_older_ones(self, log: Log, log_url: str) -> None:
        await fill(log, 5)
        async with open_log(log_url) as other:
            old = await log.open_generation("g", TOPIC)
            await log.commit("g", TOPIC, {0: 1}, generation=old)
            new = await other.open_generation("g", TOPIC)
            assert new > old
            with pytest.raises(CommitFenced) as caught:
                await log.commit("g", TOPIC, {0: 4}, generation=old)
            assert caught.value.topic == TOPIC
            assert await committed(log) == {0: 1}, "a new generation keeps what was committed"
            await log.commit("g", TOPIC, {0: 2}, generation=new)

    async def test_a_generation_that_was_never_opened_is_fenced(self, log: Log) -> None:
        await fill(log, 5)
        for generation in (0, 1, 7):
            with pytest.raises(CommitFenced):
                await log.commit("g", TOPIC, {0: 1}, generation=generation)
        opened = await log.open_generation("g", TOPIC)
        for generation in (-1, 0, opened + 1):
            with pytest.raises(CommitFenced):
                await log.commit("g", TOPIC, {0: 1}, generation=generation)
        assert await committed(log) == {}

    async def test_generations_opened_at_once_are_all_different(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with open_log(log_url) as other:
            given = await asyncio.gather(*((log, other)[n % 2].open_generation("g", TOPIC) for n in range(10)))
        assert len(set(given)) == 10
        await log.commit("g", TOPIC, {0: 1}, generation=max(given))

    async def test_a_seek_back_is_a_new_generation_with_those_positions(self, log: Log) -> None:
        await fill(log, 5, partitions=2)
        await log.append(TOPIC, 1, numbered(5))
        first = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 4, 1: 4}, generation=first)
        second = await log.open_generation("g", TOPIC, {0: 1, 1: 5})
        assert await committed(log) == {0: 1, 1: 5}
        with pytest.raises(CommitFenced):
            await log.commit("g", TOPIC, {0: 5}, generation=first)
        assert dict((await log.commit("g", TOPIC, {0: 2}, generation=second)).positions) == {0: 2, 1: 5}

    async def test_groups_and_topics_do_not_disturb_each_other(self, log: Log) -> None:
        await fill(log, 5)
        await fill(log, 5, "other")
        one, two = await log.open_generation("g", TOPIC), await log.open_generation("h", TOPIC)
        elsewhere = await log.open_generation("g", "other")
        await log.commit("g", TOPIC, {0: 1}, generation=one)
        await log.commit("h", TOPIC, {0: 2}, generation=two)
        await log.commit("g", "other", {0: 3}, generation=elsewhere)
        assert await committed(log, "g") == {0: 1}
        assert await committed(log, "h") == {0: 2}
        assert dict((await log.committed("g", "other")).positions) == {0: 3}

    async def test_a_group_is_a_holder_that_moves_with_its_commits(self, log: Log) -> None:
        await fill(log, 6)
        generation = await log.open_generation("workers", TOPIC)
        await log.commit("workers", TOPIC, {0: 2}, generation=generation)
        (state,) = await log.holders(TOPIC)
        assert (state.holder.name, state.holder.kind) == ("group:workers", HolderKind.NAMED)
        assert (dict(state.holder.positions), state.lag_records) == ({0: 2}, 4)
        done = await log.truncate(TOPIC, 0, 6)
        assert (done.earliest, done.blocked_by) == (2, ("group:workers",))
        await log.commit("workers", TOPIC, {0: 5}, generation=generation)
        assert (await log.truncate(TOPIC, 0, 6)).earliest == 5

    async def test_a_group_that_seeks_back_holds_from_there(self, log: Log) -> None:
        await fill(log, 6)
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 5}, generation=generation)
        await log.open_generation("g", TOPIC, {0: 1})
        assert (await log.truncate(TOPIC, 0, 6)).earliest == 1

    async def test_a_silent_group_stops_holding_after_a_day_but_keeps_its_commits(
        self, timed: Log, clock: ManualClock
    ) -> None:
        await fill(timed, 6)
        generation = await timed.open_generation("g", TOPIC)
        await timed.commit("g", TOPIC, {0: 2}, generation=generation)
        clock.advance(NAMED_EXPIRY_S - 1)
        assert (await timed.truncate(TOPIC, 0, 6)).earliest == 2
        clock.advance(2)
        assert (await timed.truncate(TOPIC, 0, 4)).earliest == 4
        assert await committed(timed) == {0: 2}
        await timed.commit("g", TOPIC, {0: 5}, generation=generation)
        assert (await timed.truncate(TOPIC, 0, 6)).earliest == 5
        assert await bounds(timed) == (5, 6)

    async def test_an_illegal_group_name_or_partition_is_refused(self, log: Log) -> None:
        await fill(log, 3)
        with pytest.raises(ConfigurationError):
            await log.open_generation("not a name", TOPIC)
        generation = await log.open_generation("g", TOPIC)
        for partition in (-1, 1):
            with pytest.raises(PartitionNotFound):
                await log.commit("g", TOPIC, {0: 1, partition: 0}, generation=generation)
        assert await committed(log) == {}
