"""Snapshots: what makes one exist, what gc may remove, and what a crash in between leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynlog import Retention, SnapshotPolicy, Snapshots
from dynlog.errors import ConfigurationError, SnapshotCorrupt
from dynlog.snapshot_body import decode_body, encode_body
from tests.planes.tally import Tally
from tests.planes.test_replay import places, rebuild, say, snapshot

DAY = 24 * 3600


async def bodies(objects: object) -> set[str]:
    return {info.key async for info in objects.list("snapshots/")}  # type: ignore[attr-defined]


async def test_gc_keeps_the_newest_verified_ones_and_the_state_survives_it(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        manifests = []
        for text in "abcde":
            await say(log, 0, text)
            manifests.append(await snapshot(log, objects, clock))
        report = await Snapshots(log, "t", objects, "tally", clock=clock).gc(keep=2)
        assert report.snapshots == 3
        assert await bodies(objects) == {m.key for m in manifests[-2:]}
        assert (await rebuild(log, objects)).state.seen[0] == list("abcde")
        known = await Snapshots(log, "t", objects, "tally").known()
        assert [s.manifest.id for s in known] == [m.id for m in manifests[-2:]]


async def test_gc_spares_a_body_that_nobody_names_until_it_is_a_day_old(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        await snapshot(log, objects, clock)
        incarnation = (await log.topic("t")).incarnation
        await objects.put(f"snapshots/t/tally/{incarnation}/left-by-a-crash", b"half")
        store = Snapshots(log, "t", objects, "tally", clock=clock)
        assert (await store.gc()).unnamed_bodies == 0
        clock.advance(DAY + 1)
        assert (await store.gc()).unnamed_bodies == 1
        assert len(await bodies(objects)) == 1


async def test_gc_touches_neither_other_projections_nor_other_objects(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        await snapshot(log, objects, clock)
        await objects.put("snapshots/t/other/x", b"theirs")
        await objects.put("models/llama/config.json", b"{}")
        clock.advance(2 * DAY)
        await Snapshots(log, "t", objects, "tally", clock=clock).gc(keep=1)
        assert await objects.get_bytes("snapshots/t/other/x") == b"theirs"
        assert await objects.get_bytes("models/llama/config.json") == b"{}"


async def test_a_snapshot_whose_writer_died_after_the_upload_does_not_exist(tmp_path: Path) -> None:
    class Died(Exception):
        pass

    async with places(tmp_path) as (log, objects, clock):
        await say(log, 0, "a")
        store = Snapshots(log, "t", objects, "tally", clock=clock)
        rebuilt = await rebuild(log)

        def dying() -> Iterator[bytes]:
            yield b"[0, []]"
            raise Died

        with pytest.raises(Died):
            await store.write({0: dying()}, Tally.schema, rebuilt.reader.positions)
        assert not list(await store.known())
        assert await bodies(objects) == set()
        assert (await rebuild(log, objects)).report.started_from == "offset 0"


@pytest.mark.parametrize(
    ("retention", "policy"),
    [
        (Retention(max_age_s=60), SnapshotPolicy(every_s=300)),
        (Retention(max_age_s=60), SnapshotPolicy(every_s=None)),
        (Retention(max_bytes=1000), SnapshotPolicy(every_bytes=600)),
    ],
)
def test_a_retention_shorter_than_the_snapshot_cadence_is_refused(retention: Retention, policy: SnapshotPolicy) -> None:
    with pytest.raises(ConfigurationError, match="cadence"):
        policy.check(retention)


def test_a_body_is_consumed_exactly_or_refused_at_every_cut_and_for_anything_behind_it() -> None:
    sections = {0: [b"one", b"", b"two" * 1000], 1: [b"three"]}
    body = b"".join(encode_body({name: iter(parts) for name, parts in sections.items()}))
    expected = [(name, part) for name, parts in sections.items() for part in parts]
    assert list(decode_body([body])) == expected
    assert list(decode_body([body[i : i + 1] for i in range(len(body))])) == expected
    for cut in range(len(body)):
        with pytest.raises(SnapshotCorrupt):
            list(decode_body([body[:cut]]))
    with pytest.raises(SnapshotCorrupt):
        list(decode_body([body, b"x"]))
