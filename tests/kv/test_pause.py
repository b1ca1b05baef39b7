"""A compaction that loses asks for a pause; whoever writes gives way, but loses nothing by it."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import DeadlineExceeded
from dynlog.kv import Bucket, open_kv, pause
from dynlog.kv.records import MARKS, Barrier, Beat, Grant, Pause, Picture, to_record
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import PATIENCE_S
from tests.kv.backend import NAME, contents, elsewhere

FOR_EVER_S = 3600.0


@pytest.fixture
def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is not over by itself."""
    monkeypatch.setattr(pause, "PAUSE_S", FOR_EVER_S)


async def ask(log: Log, bucket: Bucket) -> None:
    """What the compaction of another process says, heard by this one."""
    await log.append("dynlog.kv." + NAME, 0, [to_record(Pause(0))], timeout=5)
    await heard(bucket)


async def heard(bucket: Bucket) -> None:
    """Until it gives way."""
    async with asyncio.timeout(PATIENCE_S):
        while not bucket.follower.pausing.active:
            await bucket.follower.changes.beyond(bucket.follower.changes.count)


async def answer(log: Log) -> None:
    """Its picture."""
    await log.append("dynlog.kv." + NAME, 0, [to_record(Picture(0, MARKS, "", "", False, b""))], timeout=5)


async def is_held_back(writing: asyncio.Task[int], bucket: Bucket) -> bool:
    """Whether it is not under way after everything that is ready has had its turn, again and again."""
    for _ in range(50):
        await asyncio.sleep(0)
    return not writing.done() and bucket.follower.pausing.active


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize("before", [0, 1], ids=["its first write", "a later one"])
async def test_a_write_waits_for_the_picture_of_a_compaction_that_lost(log: Log, bucket: Bucket, before: int) -> None:
    for n in range(before):
        await bucket.put(f"before {n}", b"")
    await ask(log, bucket)
    writing = [asyncio.create_task(bucket.put(f"k{n}", b"v")) for n in range(2)]
    assert await is_held_back(writing[0], bucket)
    end = (await log.partitions("dynlog.kv." + NAME))[0].end
    await answer(log)
    assert min(await asyncio.gather(*writing)) > end, "behind the picture"


@pytest.mark.usefixtures("no_end")
async def test_a_heartbeat_gives_way_to_nobody(log: Log, bucket: Bucket) -> None:
    await bucket.say(Grant("l", 60_000, "me"))
    await ask(log, bucket)
    await bucket.say(Beat("p", ("l",)), timeout=5)


@pytest.mark.usefixtures("no_end")
async def test_a_write_that_gives_way_ends_in_time_and_is_not_written(log: Log, bucket: Bucket) -> None:
    await ask(log, bucket)
    with pytest.raises(DeadlineExceeded, match="it will not be"):
        await bucket.put("k", b"v", timeout=0.05)
    await answer(log)
    assert await contents(bucket) == {}


async def test_a_compactor_that_was_killed_stops_nobody_for_long(log: Log, bucket: Bucket) -> None:
    await ask(log, bucket)
    await bucket.put("k", b"v", timeout=10 * pause.PAUSE_S)


@pytest.mark.usefixtures("no_end")
async def test_a_pause_of_the_past_is_none_for_who_opens_the_bucket(log: Log, bucket: Bucket, log_url: str) -> None:
    await ask(log, bucket)
    async with elsewhere(log_url) as other:
        await other.put("k", b"v", timeout=5)
        assert await is_held_back(asyncio.create_task(bucket.put("k", b"w")), bucket), "who heard it is still waiting"
        await answer(log)


@pytest.mark.usefixtures("no_end")
async def test_what_gives_way_is_written_when_its_bucket_is_closed(log: Log, bucket: Bucket, log_url: str) -> None:
    async with open_log(log_url) as their_log, open_kv(their_log, compaction=None) as kv:
        other = await kv.bucket(NAME)
        await ask(log, other)
        writing = asyncio.create_task(other.put("k", b"v"))
        assert await is_held_back(writing, other)
    assert writing.done()
    await answer(log)
    assert await contents(bucket) == {"k": b"v"}


async def test_a_compaction_that_keeps_losing_rests_so_that_writers_have_their_turn(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who gives way to nobody writes before each picture; a writer of ours still gets through."""
    monkeypatch.setattr(pause, "PAUSE_S", FOR_EVER_S)
    write, rude = bucket.compactor._write_range, True

    async def overtaken(*arguments: object) -> object:
        if rude:
            await bucket.follower._log.append("dynlog.kv." + NAME, 0, [to_record(Barrier())], timeout=5)
        return await write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bucket.compactor, "_write_range", overtaken)
    compacting = asyncio.create_task(bucket.compact(timeout=30))
    await heard(bucket)
    await bucket.put("k", b"v", timeout=10)
    rude = False
    assert (await compacting).conflicts > 3
