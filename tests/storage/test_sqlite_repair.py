"""Damage is named by verify, set aside by quarantine, and what is left goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dynlog.errors import ConfigurationError, LogCorrupt, LogDiverged
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.topics import Damage, Holder, HolderKind
from tests.storage.damage import BELL, DB, WAL, build, url_of


@contextmanager
def tampering(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / DB, isolation_level=None)) as db:
        db.create_function("flipped", 1, lambda frame: frame[:40] + bytes([frame[40] ^ 1]) + frame[41:])
        yield db


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    folder = tmp_path / "killed"
    folder.mkdir()
    build(folder, killed=True)
    return folder


async def fill(folder: Path, appends: int = 9) -> None:
    async with open_log(url_of(folder)) as log:
        await log.create_topic("t", partitions=2)
        for number in range(appends):
            records = [Record(parts=(f"{number}.{part}".encode(), bytes(300))) for part in range(3)]
            await log.append("t", 0, records)
            await log.append("t", 1, [Record(parts=(b"other",), mark=Mark("p", 1, number))])


async def tail(log: Log, partition: int = 0) -> list[tuple[int, bytes]]:
    position = await log.position("t", partition)
    found: list[tuple[int, bytes]] = []
    while True:
        batch = await log.read(position, max_bytes=500)
        found += [(offset, bytes(body[0])) for offset, body in zip(batch.offsets, batch.bodies, strict=True)]
        position = batch.next_position
        if batch.next_offset == batch.end_offset:
            return found


async def damages(log: Log) -> list[Damage]:
    return [damage async for damage in log.verify()]


EVERYTHING = [(3 * number + part, f"{number}.{part}".encode()) for number in range(9) for part in range(3)]


@pytest.mark.parametrize(
    ("sql", "start", "end"),
    [
        ("UPDATE batches SET frame = flipped(frame) WHERE partition = 0 AND base = 6", 6, 9),
        ("UPDATE batches SET next = 8 WHERE partition = 0 AND base = 6", 6, 9),
        ("UPDATE batches SET log_time_ms = 0 WHERE partition = 0 AND base = 6", 6, 9),
        ("DELETE FROM batches WHERE partition = 0 AND base = 6", 6, 9),
        ("DELETE FROM batches WHERE partition = 0 AND base IN (6, 9)", 6, 12),
        ("DELETE FROM batches WHERE partition = 0 AND base = 24", 24, 27),
        ("DELETE FROM batches WHERE partition = 0 AND base = 0", 0, 3),
        ("DELETE FROM batches WHERE partition = 0", 0, 27),
    ],
)
async def test_a_damaged_batch_is_named_and_set_aside_and_becomes_a_hole(
    tmp_path: Path, sql: str, start: int, end: int
) -> None:
    await fill(tmp_path)
    with tampering(tmp_path) as db:
        db.execute(sql)
    async with open_log(url_of(tmp_path)) as log:
        with pytest.raises(LogCorrupt) as caught:
            await tail(log)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, start)
        found = await damages(log)
        assert [(d.topic, d.partition, d.start, d.end) for d in found] == [("t", 0, start, end)]
        assert await log.quarantine() == found
        left = [(offset, body) for offset, body in EVERYTHING if not start <= offset < end]
        assert await tail(log) == left
        assert await damages(log) == []
        events = await log.events("t")
        assert [event.kind for event in events] == ["quarantined"]
        assert f"{start} to {end}" in events[0].detail
        assert (await log.append("t", 0, [Record(parts=(b"on",))])).offsets == (27,)
        assert await tail(log) == [*left, (27, b"on")]
        hole = await log.read((await log.position("t", 0))._replace(offset=start), max_records=1)
        assert hole.next_offset == end or list(hole.offsets) == [end]
        await log.truncate("t", 0, 27)
        assert await tail(log) == [(27, b"on")]
        assert await damages(log) == []
    async with open_log(url_of(tmp_path)) as log:
        assert await tail(log) == [(27, b"on")]


@pytest.mark.parametrize("key", ["part/00000001/0000", "holder/00000001/h", "mark/00000001/0001/p", "census/00000001"])
async def test_a_damaged_document_is_named_and_does_without_after_quarantine(tmp_path: Path, key: str) -> None:
    await fill(tmp_path)
    async with open_log(url_of(tmp_path)) as log:
        await log.hold("t", Holder("h", HolderKind.NAMED, {0: 0}))
    with tampering(tmp_path) as db:
        assert db.execute("UPDATE docs SET frame = zeroblob(length(frame)) WHERE key = ?", (key,)).rowcount == 1
    async with open_log(url_of(tmp_path)) as log:
        assert any(key in damage.reason for damage in await damages(log))
        assert any(key in damage.reason for damage in await log.quarantine())
        assert await damages(log) == []
        assert await tail(log) == EVERYTHING
        assert (await log.append("t", 0, [Record(parts=(b"on",))])).offsets == (27,)
        assert len(await log.holders("t")) == (key != "holder/00000001/h")


async def test_a_document_that_vanished_is_missed(tmp_path: Path) -> None:
    await fill(tmp_path)
    with tampering(tmp_path) as db:
        db.execute("DELETE FROM docs WHERE key LIKE 'mark/%'")
    async with open_log(url_of(tmp_path)) as log:
        assert [d.partition for d in await damages(log)] == [1]
        with pytest.raises(LogCorrupt, match="1 were stored"):
            await log.append("t", 1, [Record(mark=Mark("p", 1, 3))])


async def test_damaged_pages_are_named_and_quarantine_saves_what_can_be_reached(tmp_path: Path) -> None:
    await fill(tmp_path, appends=40)
    data = bytearray((tmp_path / DB).read_bytes())
    at = data.index(b"17.0")
    page = at // 512 * 512
    data[page : page + 512] = bytes(512)
    (tmp_path / DB).write_bytes(data)
    async with open_log(url_of(tmp_path)) as log:
        assert any("pages" in damage.reason for damage in await damages(log))
        await log.quarantine()
        assert await damages(log) == []
        kept = await tail(log)
        everything = {(3 * number + part, f"{number}.{part}".encode()) for number in range(40) for part in range(3)}
        assert set(kept) <= everything
        assert len(kept) > 100
        assert (await log.append("t", 0, [Record(parts=(b"on",))])).offsets == (120,)


async def test_a_lost_tail_is_accepted_only_when_told_to_and_ends_the_incarnation(killed: Path) -> None:
    folder = killed
    wal = bytearray((folder / WAL).read_bytes())
    wal[len(wal) // 2] ^= 1
    (folder / WAL).write_bytes(wal)
    async with open_log(url_of(folder) + "&repair=true") as log:
        before = (await log.topic("t")).incarnation
        assert ["tail is lost" in damage.reason for damage in await damages(log)] == [True]
        with pytest.raises(LogCorrupt, match="accept"):
            await log.quarantine()
        with pytest.raises(ConfigurationError, match="repair only"):
            await log.append("t", 0, [Record()])
        assert len(await log.quarantine(accept_loss=True)) == 1
    async with open_log(url_of(folder)) as log:
        assert (await log.topic("t")).incarnation != before
        assert [event.kind for event in await log.events("t")] == ["loss-accepted"]
        assert await damages(log) == []
        position = await log.position("t", 0)
        with pytest.raises(LogDiverged):
            await log.read(position._replace(incarnation=before))
        ends = [state.end for state in await log.partitions("t")]
        assert (await log.append("t", 0, [Record()])).offsets == (ends[0],)


async def test_a_missing_bell_is_made_anew_when_the_loss_is_accepted(tmp_path: Path) -> None:
    await fill(tmp_path)
    (tmp_path / BELL).unlink()
    async with open_log(url_of(tmp_path) + "&repair=true") as log:
        assert ["is missing" in damage.reason for damage in await damages(log)] == [True]
        await log.quarantine(accept_loss=True)
    async with open_log(url_of(tmp_path)) as log:
        assert await tail(log) == EVERYTHING


async def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    await fill(tmp_path)
    target = tmp_path / "copy.db"
    target.write_text("mine")
    async with open_log(url_of(tmp_path)) as log:
        with pytest.raises(ConfigurationError, match="exists already"):
            await log.backup(target)
    assert target.read_text() == "mine"
