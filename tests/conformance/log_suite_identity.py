"""Identity: a position of another incarnation, or beyond the end, raises LogDiverged; it never waits, never skips."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynlog.errors import CommitFenced, LogDiverged, TopicNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import TOPIC, LogBackend, bodies, bounds, fill, kept_alive, numbered


class IdentitySuite(LogBackend):
    async def test_a_log_keeps_its_identity_over_handles_and_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log, open_log(log_url) as other:
                identity = log.identity
                assert identity
                assert other.identity == identity
            async with open_log(log_url) as log:
                assert log.identity == identity

    async def test_two_logs_and_their_topics_of_one_name_are_never_the_same(self, log: Log, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        async with open_log(self.url(tmp_path / "other")) as other:
            assert other.identity != log.identity
            await fill(log, 3)
            await fill(other, 3)
            assert (await log.topic(TOPIC)).incarnation != (await other.topic(TOPIC)).incarnation
            with pytest.raises(LogDiverged):
                await other.read(await log.position(TOPIC, 0))

    async def test_a_position_beyond_the_end_diverged_and_is_not_waited_for(self, log: Log) -> None:
        await fill(log, 3)
        async with asyncio.timeout(3):
            for offset in (4, 1 << 40):
                with pytest.raises(LogDiverged) as caught:
                    await log.read(await log.position(TOPIC, 0, offset), wait=30)
                assert (caught.value.topic, caught.value.partition, caught.value.offset) == (TOPIC, 0, offset)

    async def test_a_position_of_another_incarnation_diverged_although_its_offset_exists(self, log: Log) -> None:
        await fill(log, 3)
        position = await log.position(TOPIC, 0, 1)
        async with asyncio.timeout(3):
            for offset in (0, 1, 3, 9):
                with pytest.raises(LogDiverged):
                    await log.read(position._replace(incarnation="0" * 32, offset=offset), wait=30)

    async def test_a_position_in_a_recreated_topic_diverged(self, log: Log) -> None:
        await fill(log, 3)
        position = await log.position(TOPIC, 0, 1)
        await log.delete_topic(TOPIC)
        with pytest.raises((LogDiverged, TopicNotFound)):
            await log.read(position)
        await fill(log, 5)
        with pytest.raises(LogDiverged):
            await log.read(position)

    async def test_a_position_survives_reopening(self, log_url: str) -> None:
        async with kept_alive(log_url):
            async with open_log(log_url) as log:
                await fill(log, 3)
                position = await log.position(TOPIC, 0, 2)
            async with open_log(log_url) as log:
                assert list((await log.read(position)).offsets) == [2]

    async def test_a_holder_beyond_the_end_diverged_and_holds_nothing(self, log: Log) -> None:
        await fill(log, 3, partitions=2)
        with pytest.raises(LogDiverged) as caught:
            await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {1: 0, 0: 4}))
        assert (caught.value.partition, caught.value.offset) == (0, 4)
        assert await log.holders(TOPIC) == []
        await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 3}))

    async def test_a_commit_beyond_the_end_diverged_and_stores_nothing(self, log: Log) -> None:
        await fill(log, 3, partitions=2)
        await log.append(TOPIC, 1, numbered(3))
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 1}, generation=generation)
        with pytest.raises(LogDiverged) as caught:
            await log.commit("g", TOPIC, {1: 2, 0: 4}, generation=generation)
        assert (caught.value.partition, caught.value.offset) == (0, 4)
        assert dict((await log.committed("g", TOPIC)).positions) == {0: 1}

    async def test_a_seek_beyond_the_end_diverged_and_fences_nobody(self, log: Log) -> None:
        await fill(log, 3)
        generation = await log.open_generation("g", TOPIC)
        with pytest.raises(LogDiverged):
            await log.open_generation("g", TOPIC, {0: 4})
        await log.commit("g", TOPIC, {0: 3}, generation=generation)

    async def test_a_commit_of_a_group_of_the_deleted_topic_is_refused(self, log: Log) -> None:
        await fill(log, 3)
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 2}, generation=generation)
        await log.delete_topic(TOPIC)
        await fill(log, 5)
        with pytest.raises((CommitFenced, LogDiverged)):
            await log.commit("g", TOPIC, {0: 3}, generation=generation)
        assert dict((await log.committed("g", TOPIC)).positions) == {}

    async def test_a_truncation_beyond_the_end_diverged_and_removes_nothing(self, log: Log) -> None:
        await fill(log, 3)
        for force in (False, True):
            with pytest.raises(LogDiverged):
                await log.truncate(TOPIC, 0, 4, force=force)
        assert await bounds(log) == (0, 3)
        assert await bodies(log) == ["r0", "r1", "r2"]
