"""Topics: created once, atomically, under a new incarnation; labels whose first value wins."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import ConfigurationError, TopicExists, TopicNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.timing import ManualClock
from dynlog.topics import MAX_PARTITIONS, Retention
from tests.conformance.backend import (
    TOPIC,
    LogBackend,
    bodies,
    fill,
    kept_alive,
    marked,
    record,
    records,
)
from tests.conformance.every_call import TOPIC_CALLS


class TopicsSuite(LogBackend):
    async def test_a_topic_is_described_as_it_was_created(self, timed: Log, clock: ManualClock) -> None:
        retention = Retention(max_age_s=3600.5, max_bytes=1 << 40)
        created = await timed.create_topic(TOPIC, partitions=3, retention=retention, labels={"block_size": "16"})

        assert (created.name, created.partitions, created.retention) == (TOPIC, 3, retention)
        assert dict(created.labels) == {"block_size": "16"}
        assert created.created_ms == clock.time_ms()
        assert await timed.topic(TOPIC) == created
        assert await timed.topics() == [created]

    async def test_a_topic_keeps_everything_without_a_retention(self, log: Log) -> None:
        assert (await log.create_topic(TOPIC)).retention == Retention()

    async def test_a_second_topic_of_the_same_name_is_refused_by_name(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        with pytest.raises(TopicExists, match=TOPIC) as caught:
            await log.create_topic(TOPIC)
        assert caught.value.topic == TOPIC

    async def test_exist_ok_returns_the_existing_topic_with_its_own_retention_and_labels(self, log: Log) -> None:
        first = await log.create_topic(TOPIC, partitions=2, retention=Retention(max_bytes=5000), labels={"a": "1"})
        again = await log.create_topic(
            TOPIC, partitions=2, retention=Retention(max_age_s=1), labels={"a": "2", "b": "3"}, exist_ok=True
        )
        assert again == first

    async def test_exist_ok_with_another_partition_count_is_refused(self, log: Log) -> None:
        await log.create_topic(TOPIC, partitions=2)
        with pytest.raises(TopicExists):
            await log.create_topic(TOPIC, partitions=3, exist_ok=True)

    @pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "ä", "a\n", "x" * 250, "a\x00"])
    async def test_an_illegal_topic_name_is_a_configuration_error(self, log: Log, name: str) -> None:
        with pytest.raises(ConfigurationError):
            await log.create_topic(name)
        assert await log.topics() == []

    @pytest.mark.parametrize("name", ["a", "9", "A.b_c:d-e", "x" * 249])
    async def test_a_legal_topic_name_is_taken(self, log: Log, name: str) -> None:
        await log.create_topic(name)
        await log.append(name, 0, records("a"))
        assert await bodies(log, name) == ["a"]

    @pytest.mark.parametrize("count", [0, -1, MAX_PARTITIONS + 1])
    async def test_an_illegal_partition_count_is_a_configuration_error(self, log: Log, count: int) -> None:
        with pytest.raises(ConfigurationError):
            await log.create_topic(TOPIC, partitions=count)
        assert await log.topics() == []

    @pytest.mark.timeout(400)  # a broker makes a folder and a few files for each
    async def test_a_topic_may_have_the_most_partitions_allowed(self, log: Log) -> None:
        await log.create_topic(TOPIC, partitions=MAX_PARTITIONS, timeout=180)
        await log.append(TOPIC, MAX_PARTITIONS - 1, records("last"), timeout=120)
        states = await log.partitions(TOPIC, timeout=120)
        assert [state.partition for state in states] == list(range(MAX_PARTITIONS))
        assert sum(state.end for state in states) == 1

    @pytest.mark.parametrize("call", TOPIC_CALLS)
    async def test_a_topic_that_does_not_exist_is_named_and_not_created_by_accident(self, log: Log, call: str) -> None:
        with pytest.raises(TopicNotFound, match="nosuch") as caught:
            await TOPIC_CALLS[call](log, "nosuch")
        assert caught.value.topic == "nosuch"
        assert await log.topics() == []

    async def test_topics_are_listed_by_name(self, log: Log) -> None:
        for name in ("b", "a:2", "a.1", "C", "a"):
            await log.create_topic(name)
        assert [topic.name for topic in await log.topics()] == ["C", "a", "a.1", "a:2", "b"]

    async def test_of_many_who_create_a_topic_at_once_one_wins(self, log: Log, log_url: str) -> None:
        async with open_log(log_url) as other:
            outcomes = await asyncio.gather(
                *((log, other)[i % 2].create_topic(TOPIC) for i in range(10)), return_exceptions=True
            )
        assert sum(isinstance(outcome, TopicExists) for outcome in outcomes) == 9
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1

    async def test_many_who_ensure_a_topic_at_once_get_the_same_one(self, log: Log, log_url: str) -> None:
        async with open_log(log_url) as other:
            made = await asyncio.gather(*((log, other)[i % 2].create_topic(TOPIC, exist_ok=True) for i in range(10)))
        assert len({topic.incarnation for topic in made}) == 1

    async def test_topics_records_and_labels_are_there_after_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log:
                before = await log.create_topic(TOPIC, partitions=2, retention=Retention(max_age_s=9.5))
                await log.label_topic(TOPIC, "block_size", "16")
                await log.append(TOPIC, 1, records("a", "b"))
                before = await log.topic(TOPIC)
            async with open_log(log_url) as log:
                assert await log.topic(TOPIC) == before
                assert await bodies(log, TOPIC, 1) == ["a", "b"]
                assert (await log.append(TOPIC, 1, records("c"))).offsets == (2,)

    async def test_the_first_value_of_a_label_wins_for_ever(self, log: Log) -> None:
        await log.create_topic(TOPIC, labels={"given": "at creation"})
        assert await log.label_topic(TOPIC, "block_size", "16") == "16"
        assert await log.label_topic(TOPIC, "block_size", "64") == "16"
        assert await log.label_topic(TOPIC, "given", "later") == "at creation"
        assert dict((await log.topic(TOPIC)).labels) == {"given": "at creation", "block_size": "16"}

    async def test_of_many_who_label_at_once_all_learn_the_same_winner(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        async with open_log(log_url) as other:
            values = await asyncio.gather(*((log, other)[i % 2].label_topic(TOPIC, "l", f"v{i}") for i in range(10)))
            assert len(set(values)) == 1
            assert (await other.topic(TOPIC)).labels["l"] == (await log.topic(TOPIC)).labels["l"] == values[0]

    async def test_a_deleted_topic_is_gone_with_all_its_records(self, log: Log) -> None:
        await fill(log, 3)
        await log.create_topic("other")
        await log.append("other", 0, records("stays"))
        await log.delete_topic(TOPIC)
        assert [topic.name for topic in await log.topics()] == ["other"]
        with pytest.raises(TopicNotFound):
            await log.append(TOPIC, 0, records("late"))
        assert await bodies(log, "other") == ["stays"]

    async def test_a_recreated_topic_is_another_incarnation_without_records_commits_holders_labels_or_marks(
        self, log: Log
    ) -> None:
        first = await log.create_topic(TOPIC, labels={"old": "label"})
        await log.append(TOPIC, 0, marked("p", 5, 0, "a", "b"))
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 2}, generation=generation)
        await log.delete_topic(TOPIC)

        second = await log.create_topic(TOPIC, partitions=2)
        assert second.incarnation != first.incarnation
        assert dict(second.labels) == {}
        assert await bodies(log) == []
        assert await log.holders(TOPIC) == []
        committed = await log.committed("g", TOPIC)
        assert (committed.generation, dict(committed.positions)) == (0, {})
        appended = await log.append(TOPIC, 0, marked("p", 4, 0, "a"))
        assert (appended.offsets, appended.duplicates) == ((0,), 0)

    async def test_a_topic_deleted_through_one_handle_is_gone_for_the_other(self, log: Log, log_url: str) -> None:
        await fill(log, 3)
        async with open_log(log_url) as other:
            assert await bodies(other) == ["r0", "r1", "r2"]
            await log.delete_topic(TOPIC)
            with pytest.raises(TopicNotFound):
                await other.append(TOPIC, 0, [record("late")])
            await log.create_topic(TOPIC)
            assert (await other.append(TOPIC, 0, [record("anew")])).offsets == (0,)
            assert await bodies(log) == ["anew"]
