"""Rebuilding: newest good snapshot, else an older one, else offset 0, else an error that says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import dynlog
from dynlog import Log, Mark, ObjectStore, Record, Replayer, Snapshots
from dynlog.dedupe import DedupeTable
from dynlog.errors import SnapshotCorrupt, StateUnrecoverable
from dynlog.manifests import Manifest
from dynlog.objects import ObjectInfo
from dynlog.replay import DEDUPE_SECTION, STATE_SECTION, Rebuilt
from dynlog.timing import ManualClock
from tests.planes.tally import Tally

DEFAULT_LOG = "memory://"


@asynccontextmanager
async def places(tmp_path: Path, log_url: str | None = None) -> AsyncIterator[tuple[Log, ObjectStore, ManualClock]]:
    clock = ManualClock()
    async with (
        dynlog.open_log(log_url or DEFAULT_LOG, clock=clock) as log,
        dynlog.open_objects(f"file://{tmp_path}/objects", clock=clock) as objects,
    ):
        await log.create_topic("t", partitions=2)
        yield log, objects, clock


async def say(log: Log, partition: int, *texts: str) -> None:
    await log.append("t", partition, [Record(parts=(text.encode(),)) for text in texts])


async def rebuild(log: Log, objects: ObjectStore | None = None) -> Rebuilt[Tally]:
    snapshots = Snapshots(log, "t", objects, "tally") if objects is not None else None
    rebuilt = await Replayer(log, "t", Tally, snapshots=snapshots).rebuild()
    await rebuilt.reader.close()
    return rebuilt


async def snapshot(log: Log, objects: ObjectStore, clock: ManualClock) -> Manifest:
    rebuilt = await rebuild(log, objects)
    sections = {STATE_SECTION: rebuilt.state.snapshot()}
    if rebuilt.dedupe is not None:
        sections[DEDUPE_SECTION] = rebuilt.dedupe.snapshot()
    store = Snapshots(log, "t", objects, "tally", clock=clock)
    return await store.write(sections, Tally.schema, rebuilt.reader.positions)


async def test_without_a_snapshot_it_starts_at_offset_0(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, _):
        await say(log, 0, "a", "b")
        await say(log, 1, "c")
        rebuilt = await rebuild(log, objects)
        assert rebuilt.state.seen == {0: ["a", "b"], 1: ["c"]}
        assert rebuilt.report.started_from == "offset 0"
        assert rebuilt.report.records == 3


async def test_an_empty_topic_is_a_state_too(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, _, _clock):
        assert (await rebuild(log)).state.seen == {}


async def test_with_a_snapshot_only_the_tail_is_replayed(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a", "b")
        manifest = await snapshot(log, objects, clock)
        await say(log, 1, "c")
        rebuilt = await rebuild(log, objects)
        assert rebuilt.state.seen == {0: ["a", "b"], 1: ["c"]}
        assert rebuilt.report.started_from == f"snapshot {manifest.id}"
        assert rebuilt.report.records == 1


@pytest.mark.parametrize("damage", ["missing", "flipped", "shortened", "another"])
async def test_a_newest_snapshot_that_does_not_verify_falls_back_to_the_older(tmp_path: Path, damage: str) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        older = await snapshot(log, objects, clock)
        await say(log, 0, "b")
        newer = await snapshot(log, objects, clock)
        await say(log, 0, "c")
        body = await objects.get_bytes(newer.key)
        await objects.delete(newer.key)
        if damage == "flipped":
            await objects.put(newer.key, body[:10] + bytes([body[10] ^ 1]) + body[11:])
        elif damage == "shortened":
            await objects.put(newer.key, body[:-1])
        elif damage == "another":
            await objects.put(newer.key, await objects.get_bytes(older.key))
        rebuilt = await rebuild(log, objects)
        assert rebuilt.state.seen[0] == ["a", "b", "c"]
        assert rebuilt.report.started_from == f"snapshot {older.id}"
        assert newer.id in rebuilt.report.snapshots_rejected[0]


async def test_without_history_and_snapshot_the_state_is_unrecoverable_and_says_what_is_missing(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, _):
        await say(log, 0, "a", "b")
        await log.truncate("t", 0, 1)
        with pytest.raises(StateUnrecoverable, match=r"partition 0 begins at 1.*no snapshot"):
            await rebuild(log, objects)


@pytest.mark.parametrize("damage", ["missing", "flipped", "another"])
async def test_a_snapshot_that_is_passed_over_is_named_once_with_its_body_and_store_and_without_advice(
    tmp_path: Path, damage: str
) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        manifest = await snapshot(log, objects, clock)
        await spoil(tmp_path, objects, manifest, damage)
        (why,) = (await rebuild(log, objects)).report.snapshots_rejected
        assert why.startswith(f"snapshot {manifest.id}: its body ")
        assert why.count("snapshot ") == 1
        assert manifest.key in why
        assert str(tmp_path) in why
        assert "put it again" not in why


@pytest.mark.parametrize("damage", ["missing", "flipped", "another"])
async def test_a_snapshot_whose_body_does_not_read_back_is_named_once_by_its_writer(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        append = log.append

        async def append_and_spoil(topic: str, partition: int, records: list[Record]) -> object:
            done = await append(topic, partition, records)
            async for info in objects.list("snapshots/"):
                await spoil(tmp_path, objects, info, damage)
            return done

        monkeypatch.setattr(log, "append", append_and_spoil)
        with pytest.raises(SnapshotCorrupt, match=r"^snapshot [0-9a-f]{32}: its body ") as caught:
            await snapshot(log, objects, clock)
        assert str(caught.value).count("snapshot ") == 1


async def test_a_state_that_is_unrecoverable_for_a_lost_body_says_in_one_sentence_what_to_bring_back(
    tmp_path: Path,
) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a", "b")
        manifest = await snapshot(log, objects, clock)
        await log.truncate("t", 0, 2, force=True)
        await objects.delete(manifest.key)
        with pytest.raises(StateUnrecoverable) as caught:
            await rebuild(log, objects)
        assert str(caught.value) == (
            "topic 't' cannot be rebuilt: partition 0 begins at 2 and no snapshot has what was before (snapshot "
            f"{manifest.id}: its body cannot be read: no such object (store 'file://{tmp_path}/objects', key "
            f"{manifest.key!r})); bring a body back from a copy of the store, or start a new topic and have the "
            "workers report anew"
        )


async def test_a_state_that_is_unrecoverable_without_an_object_store_asks_for_the_store(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a", "b")
        await snapshot(log, objects, clock)
        await log.truncate("t", 0, 2, force=True)
        with pytest.raises(StateUnrecoverable, match="name the object store that its snapshots lie in, or start a new"):
            await rebuild(log)


async def spoil(folder: Path, objects: ObjectStore, body: Manifest | ObjectInfo, damage: str) -> None:
    """Removes a body, flips a bit of its file, or puts another one in its place."""
    if damage == "flipped":
        for file in (folder / "objects").rglob("*"):
            if file.is_file() and len(content := bytearray(file.read_bytes())) == body.size:
                content[10] ^= 1
                file.write_bytes(content)
        return
    await objects.delete(body.key)
    if damage == "another":
        await objects.put(body.key, b"another")


async def test_a_snapshot_that_the_log_no_longer_reaches_back_to_is_not_used(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        await snapshot(log, objects, clock)
        await say(log, 0, "b", "c", "d")
        await log.truncate("t", 0, 3, force=True)
        with pytest.raises(StateUnrecoverable, match="partition 0 begins at 3"):
            await rebuild(log, objects)


async def test_a_snapshot_of_an_earlier_topic_of_that_name_is_not_used(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "old")
        await snapshot(log, objects, clock)
        await log.delete_topic("t")
        await log.create_topic("t", partitions=2)
        await say(log, 0, "new")
        rebuilt = await rebuild(log, objects)
        assert rebuilt.state.seen == {0: ["new"]}
        assert rebuilt.report.started_from == "offset 0"


async def test_truncation_never_passes_the_newest_verified_snapshots_predecessor(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a", "b")
        await snapshot(log, objects, clock)
        await say(log, 0, "c", "d")
        blocked = await log.truncate("t", 0, 2)
        assert blocked.earliest == 0
        assert "snapshot:tally" in blocked.blocked_by
        newest = await snapshot(log, objects, clock)
        await say(log, 0, "e")
        clock.advance(700)  # the ephemeral holders of the rebuilds above
        cut = await log.truncate("t", 0, 5)
        assert cut.earliest == 2
        await objects.delete(newest.key)
        assert (await rebuild(log, objects)).state.seen[0] == ["a", "b", "c", "d", "e"]


async def test_two_routers_that_snapshot_at_once_both_count_and_the_state_is_right(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a", "b")
        await asyncio.gather(*(snapshot(log, objects, clock) for _ in range(4)))
        await say(log, 0, "c")
        known = await Snapshots(log, "t", objects, "tally").known()
        assert len([s for s in known if s.verified]) == 4
        assert (await rebuild(log, objects)).state.seen[0] == ["a", "b", "c"]


async def test_marks_are_remembered_across_a_snapshot_where_the_engine_does_not(tmp_path: Path) -> None:
    async with places(tmp_path, "memory://?checks_marks=false") as (log, objects, clock):
        marked = [Record(parts=(b"%d" % i,), mark=Mark("p", 0, i)) for i in range(4)]
        await log.append("t", 0, marked[:3])
        await snapshot(log, objects, clock)
        await log.append("t", 0, marked)  # a redelivery that straddles the snapshot
        assert (await rebuild(log, objects)).state.seen[0] == ["0", "1", "2", "3"]


async def test_a_rebuild_that_is_cancelled_leaves_no_task_behind(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        for _ in range(20):
            await say(log, 0, *["x" * 100] * 500)
        await snapshot(log, objects, clock)
        await say(log, 1, *["y"] * 500)
        for steps in range(0, 60, 3):
            before = asyncio.all_tasks()
            task = asyncio.create_task(rebuild(log, objects))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert asyncio.all_tasks() == before


async def test_the_law_holds_for_the_dedupe_table(tmp_path: Path) -> None:
    async with places(tmp_path, "memory://?checks_marks=false") as (log, _, _clock):
        marks = [Mark(f"p{i % 3}", (i * 7) % 4, (i * 5) % 11) for i in range(200)]
        await log.append("t", 0, [Record(mark=mark) for mark in marks])
        batch = await log.read(await log.position("t", 0))
        whole = DedupeTable()
        expected = list(whole.filter(batch).offsets)
        for cut in range(0, 200, 7):
            head, tail = DedupeTable(), DedupeTable()
            kept = list(head.filter(batch.slice(0, cut)).offsets) if cut else []
            tail.restore(list(head.snapshot()))
            kept += tail.filter(batch.slice(cut, 200)).offsets
            assert kept == expected
            assert list(tail.snapshot()) == list(whole.snapshot())
