"""A server that comes back without what it acknowledged: whoever saw it is told for ever, whoever did not goes on."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.errors import LogDiverged, TopicNotFound
from dynlog.open import open_log
from dynlog.testing.redis import RedisServer
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import TOPIC, bodies, bounds, fill, marked, numbered, records, texts

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def weak(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server that does not fsync what it acknowledges."""
    async with RedisServer(tmp_path / "weak", appendfsync="no") as server:
        yield server


async def lose_tail(server: RedisServer, kept: Path) -> None:
    """Has the server come back with the data of an earlier moment."""
    await server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(kept, server.folder / "appendonlydir")
    await server.start()


def picture(server: RedisServer, where: Path) -> Path:
    """What is in the files now: everything acknowledged, since a server that never fsyncs writes at once."""
    shutil.copytree(server.folder / "appendonlydir", where)
    return where


@pytest.mark.parametrize("same_handle", [True, False])
async def test_a_position_that_saw_lost_records_diverged_also_after_their_offsets_would_have_been_reused(
    weak: RedisServer, tmp_path: Path, same_handle: bool
) -> None:
    async with open_log(weak.url) as log:
        await fill(log, 5)
        kept = picture(weak, tmp_path / "kept")
        await log.append(TOPIC, 0, numbered(10, "lost"))
        seen = (await log.position(TOPIC, 0, "end"))._replace(offset=(await bounds(log))[1] - 3)
        await lose_tail(weak, kept)
        with pytest.raises(LogDiverged):
            await log.read(seen)
        async with open_log(weak.url) as other:
            writer = log if same_handle else other
            await writer.append(TOPIC, 0, numbered(50, "new"))
            for reader in (log, other):
                with pytest.raises(LogDiverged):
                    await reader.read(seen)


async def test_an_append_that_meets_the_new_run_before_anything_else_leaves_the_gap_as_well(
    weak: RedisServer, tmp_path: Path
) -> None:
    """Its handle was told of nothing that is lost, and composed the append while it knew the old run only."""
    async with open_log(weak.url) as log, open_log(weak.url) as other:
        await fill(log, 5)
        await other.append(TOPIC, 0, records("r5"))
        kept = picture(weak, tmp_path / "kept")
        seen = (await log.append(TOPIC, 0, numbered(10, "lost"))).offsets[4]
        await lose_tail(weak, kept)
        given = (await other.append(TOPIC, 0, numbered(20, "new"))).offsets
        assert seen not in given
        with pytest.raises(LogDiverged):
            await log.read(await log.position(TOPIC, 0, seen))


async def test_a_reader_that_saw_only_what_survived_goes_on_and_misses_nothing(
    weak: RedisServer, tmp_path: Path
) -> None:
    async with open_log(weak.url) as log, open_log(weak.url) as other:
        await fill(log, 5)
        kept = picture(weak, tmp_path / "kept")
        position = await other.position(TOPIC, 0, "end")
        await log.append(TOPIC, 0, numbered(10, "lost"))
        await lose_tail(weak, kept)
        appended = await log.append(TOPIC, 0, records("new"))
        batch = await other.read(position, wait=5)
        assert texts(list(batch)) == ["new"]
        assert tuple(batch.offsets) == appended.offsets
        assert await bodies(other) == ["r0", "r1", "r2", "r3", "r4", "new"]
        assert [damage async for damage in other.verify()] == []


async def test_no_offset_of_a_lost_record_is_given_out_again_over_many_losses(
    weak: RedisServer, tmp_path: Path
) -> None:
    given: list[int] = []
    async with open_log(weak.url) as log:
        await fill(log, 5)
        kept = picture(weak, tmp_path / "kept")
    for _ in range(3):
        async with open_log(weak.url) as log:
            given += (await log.append(TOPIC, 0, numbered(4))).offsets
        await lose_tail(weak, kept)
    assert len(set(given)) == 12
    assert given == sorted(given)


async def test_a_restart_that_lost_nothing_costs_no_reader_its_position(weak: RedisServer) -> None:
    async with open_log(weak.url) as log:
        await fill(log, 5)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a"))
        position = await log.position(TOPIC, 0, 3)
        end = await log.position(TOPIC, 0, "end")
        generation = await log.open_generation("g", TOPIC)
        await log.commit("g", TOPIC, {0: 6}, generation=generation)
        await weak.stop()
        await weak.start()
        assert texts(list(await log.read(position))) == ["r3", "r4", "a"]
        assert (await log.append(TOPIC, 0, marked("p", 1, 0, "a"))).offsets == (5,)
        (state,) = await log.holders(TOPIC)
        assert state.lag_records == 0
        await log.append(TOPIC, 0, marked("p", 1, 1, "b"))
        assert texts(list(await log.read(end))) == ["b"]
        (state,) = await log.holders(TOPIC)
        assert state.lag_records == 1, "what no server has is no lag"
        assert (await log.truncate(TOPIC, 0, 6)).earliest == 6
        assert await bodies(log) == ["b"]


async def test_a_server_that_fsyncs_every_append_keeps_offsets_dense_over_a_kill(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "strong") as server, open_log(server.url) as log:
        await fill(log, 5)
        await server.kill()
        await server.start()
        assert (await log.append(TOPIC, 0, records("next"))).offsets == (5,)
        assert await bodies(log) == ["r0", "r1", "r2", "r3", "r4", "next"]


async def test_a_restored_backup_is_noticed_by_a_handle_that_was_acknowledged_more(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "strong") as server, open_log(server.url) as log:
        await fill(log, 5)
        kept = picture(server, tmp_path / "kept")
        await log.append(TOPIC, 0, numbered(3, "lost"))
        position = await log.position(TOPIC, 0, 7)
        await lose_tail(server, kept)
        await log.append(TOPIC, 0, numbered(9, "new"))
        with pytest.raises(LogDiverged):
            await log.read(position)


async def test_a_server_that_keeps_nothing_came_back_empty_and_says_so(tmp_path: Path) -> None:
    async with RedisServer(tmp_path / "memory", appendfsync=None) as server, open_log(server.url) as log:
        await fill(log, 5)
        identity, position = log.identity, await log.position(TOPIC, 0, 2)
        await server.kill()
        await server.start()
        with pytest.raises(LogDiverged):
            await log.read(position)
        with pytest.raises(LogDiverged):
            await log.append(TOPIC, 0, records("into nothing"))
        with pytest.raises(TopicNotFound):
            await log.topic("never-there")
        assert log.identity != identity
        await fill(log, 7)
        with pytest.raises(LogDiverged):
            await log.read(position)
        assert len(await bodies(log)) == 7


async def test_a_holder_below_a_loss_still_holds(weak: RedisServer, tmp_path: Path) -> None:
    async with open_log(weak.url) as log:
        await fill(log, 5)
        await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 2}))
        kept = picture(weak, tmp_path / "kept")
        await log.append(TOPIC, 0, numbered(3, "lost"))
        await lose_tail(weak, kept)
        end = (await log.append(TOPIC, 0, numbered(3, "new"))).end_offset
        done = await log.truncate(TOPIC, 0, end)
        assert (done.earliest, done.blocked_by) == (2, ("h",))
        await log.release(TOPIC, "h")
        assert (await log.truncate(TOPIC, 0, end)).earliest == end
        assert await bodies(log) == []
