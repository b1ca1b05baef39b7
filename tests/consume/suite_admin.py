"""Administration: lag, seek by offset and time, removal; what is refused or announced while members are alive."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dynlog.errors import (
    CommitFenced,
    ConfigurationError,
    DynlogError,
    GroupBusy,
    LogDiverged,
    OffsetTruncated,
    TopicNotFound,
)
from dynlog.group_admin import (
    describe_group,
    list_groups,
    live_members,
    offsets_at,
    orphaned_groups,
    remove_group,
    remove_orphans,
    seek,
)
from dynlog.group_records import Generation
from dynlog.group_topic import group_topic, load, say
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.timing import ManualClock
from tests.conformance.backend import PATIENCE_S, TOPIC, fill, numbered
from tests.consume.backend import GROUP, ConsumeBackend, body, committed, member, nothing_comes, take, until


class AdminSuite(ConsumeBackend):
    async def test_lag_counts_records_and_log_time_per_partition(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC, partitions=2)
        for number in range(4):
            await timed.append(TOPIC, 0, numbered(1, f"{number}."))
            clock.advance(10)
        generation = await timed.open_generation(GROUP, TOPIC)
        await timed.commit(GROUP, TOPIC, {0: 1}, generation=generation)
        picture = await describe_group(timed, TOPIC, GROUP)
        first, second = picture.lags
        assert (first.position, first.end, first.records) == (1, 4, 3)
        assert first.seconds == 20.0 or timed.capabilities.server_time  # whose clock nobody here can move
        assert (second.records, second.seconds) == (0, 0.0)
        await timed.commit(GROUP, TOPIC, {0: 4}, generation=generation)
        first, _ = (await describe_group(timed, TOPIC, GROUP)).lags
        assert (first.records, first.seconds) == (0, 0.0)

    async def test_a_group_is_listed_with_its_members_and_their_partitions(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC, partitions=2)
        async with member(log_url) as one, member(log_url) as two:
            await until(lambda: len(one.partitions) == len(two.partitions) == 1, "one partition each")
            assert await list_groups(log) == [(TOPIC, GROUP)]
            picture = await describe_group(log, TOPIC, GROUP)
            assert len(picture.members) == 2
            assert {lag.member for lag in picture.lags} == set(picture.members)
            assert set(await live_members(log, TOPIC, GROUP)) <= set(picture.members)
        assert (await describe_group(log, TOPIC, GROUP)).members == {}
        assert await live_members(log, TOPIC, GROUP) == []

    async def test_a_group_that_never_was_is_named_as_missing(self, log: Log) -> None:
        await fill(log, 1)
        with pytest.raises(ConfigurationError, match="no group 'nobody'"):
            await describe_group(log, TOPIC, "nobody")

    async def test_a_seek_moves_the_group_by_offset_and_by_time(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC)
        for number in range(4):
            await timed.append(TOPIC, 0, numbered(1, f"{number}."))
            clock.advance(10)
        await seek(timed, TOPIC, GROUP, {0: 3})
        assert await committed(timed) == {0: 3}
        times = list((await timed.read(await timed.position(TOPIC, 0))).log_times)
        at = await offsets_at(timed, TOPIC, times[2], by_time=True)
        await seek(timed, TOPIC, GROUP, at)
        assert await committed(timed) == {0: times.index(times[2])}
        assert timed.capabilities.server_time or times.index(times[2]) == 2
        await seek(timed, TOPIC, GROUP, await offsets_at(timed, TOPIC, "end"))
        assert await committed(timed) == {0: 4}
        await seek(timed, TOPIC, GROUP, await offsets_at(timed, TOPIC, "earliest"))
        assert await committed(timed) == {0: 0}

    async def test_a_seek_to_where_nothing_can_be_read_is_refused(self, log: Log) -> None:
        await fill(log, 5)
        await log.truncate(TOPIC, 0, 2)
        with pytest.raises(OffsetTruncated):
            await seek(log, TOPIC, GROUP, {0: 1})
        with pytest.raises(LogDiverged):
            await seek(log, TOPIC, GROUP, {0: 6})

    async def test_a_seek_is_refused_while_members_are_alive_and_forced_they_start_over_from_there(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 5)
        async with member(log_url) as consumer:
            await take(consumer, 3)
            held = await consumer.next(PATIENCE_S)
            assert held is not None
            with pytest.raises(GroupBusy):
                await seek(log, TOPIC, GROUP, {0: 1})
            await seek(log, TOPIC, GROUP, {0: 1}, force=True)
            await until(lambda: held.settled, "it was announced to the member")
            assert [body(d) for d in await take(consumer, 4)] == ["r1", "r2", "r3", "r4"]
            with pytest.raises(CommitFenced):
                await held.ack()
            await nothing_comes(consumer, 0.1)
            await consumer.commit()
            assert await committed(log) == {0: 5}

    async def test_a_group_that_is_removed_is_forgotten_and_holds_nothing(self, log: Log, log_url: str) -> None:
        await fill(log, 5)
        async with member(log_url) as consumer:
            await take(consumer, 3)
            with pytest.raises(GroupBusy):
                await remove_group(log, TOPIC, GROUP)
        await remove_group(log, TOPIC, GROUP)
        assert await list_groups(log) == []
        assert [t.name for t in await log.topics()] == [TOPIC]
        assert await committed(log) == {}
        assert (await log.truncate(TOPIC, 0, 5)).blocked_by == ()

    async def test_members_of_a_group_that_is_removed_by_force_end_with_an_error(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer, open_log(log_url) as other:
            await take(consumer, 1)
            await remove_group(other, TOPIC, GROUP, force=True)
            with pytest.raises(DynlogError):
                await consumer.next(PATIENCE_S)

    async def test_a_removed_group_is_one_that_never_was(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            await take(consumer, 1)
        await remove_group(log, TOPIC, GROUP)
        for look in (describe_group, remove_group):
            with pytest.raises(ConfigurationError, match="no group"):
                await look(log, TOPIC, GROUP)

    async def test_groups_of_a_topic_that_was_deleted_are_not_in_the_way_and_can_be_removed(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            await take(consumer, 1)
        await log.delete_topic(TOPIC)
        assert await list_groups(log) == []
        await remove_group(log, TOPIC, GROUP)
        assert await log.topics() == []
        with pytest.raises(TopicNotFound):
            await remove_group(log, TOPIC, GROUP)

    async def test_groups_of_a_topic_that_was_created_anew_are_not_listed_and_can_be_removed(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            await take(consumer, 1)
        await log.delete_topic(TOPIC)
        await fill(log, 1)
        assert await list_groups(log) == []
        await remove_group(log, TOPIC, GROUP)
        assert [t.name for t in await log.topics()] == [TOPIC]

    async def test_orphans_are_shown_and_removed_and_a_living_group_of_the_same_name_is_not(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            await take(consumer, 1)
            assert await orphaned_groups(log) == []
            assert await remove_orphans(log) == []
        await log.delete_topic(TOPIC)
        assert [(orphan.topic, orphan.group) for orphan in await orphaned_groups(log)] == [(TOPIC, GROUP)]
        await fill(log, 2)
        async with member(log_url) as consumer:
            await take(consumer, 1)
            assert await orphaned_groups(log, "another") == await remove_orphans(log, "another") == []
            (orphan,) = await orphaned_groups(log, TOPIC)
            assert (orphan.topic, orphan.group, orphan.orphaned) == (TOPIC, GROUP, True)
            assert await remove_orphans(log) == [orphan]
            assert await orphaned_groups(log) == []
            assert await list_groups(log) == [(TOPIC, GROUP)]
            await take(consumer, 1)

    async def test_a_seek_that_another_generation_overtakes_is_announced_all_the_same(
        self, log: Log, log_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The leader opens a generation after the seek's, and tells the group of it first."""
        await fill(log, 5)
        opened = log.open_generation

        async def overtaken(group: str, topic: str, positions: Mapping[int, int] | None = None) -> int:
            monkeypatch.undo()
            number = await opened(group, topic, positions)
            name = group_topic(await log.topic(topic), group)
            newer = await opened(group, topic)
            _, position = await load(log, name)
            await say(log, name, Generation(newer, position.offset, False))
            return number

        async with member(log_url) as consumer:
            await take(consumer, 3)
            await consumer.commit()
            held = await consumer.next(PATIENCE_S)
            assert held is not None
            monkeypatch.setattr(log, "open_generation", overtaken)
            await seek(log, TOPIC, GROUP, {0: 1}, force=True)
            await until(lambda: held.settled, "it was announced to the member")
            assert [body(d) for d in await take(consumer, 4)] == ["r1", "r2", "r3", "r4"]
