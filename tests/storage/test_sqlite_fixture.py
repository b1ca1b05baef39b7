"""The first released format of a SQLite log is read for ever."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.errors import ProducerFenced
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Control, Mark, Record
from dynlog.timing import ManualClock
from dynlog.topics import GroupState, Holder, HolderKind, Retention

V1 = Path(__file__).resolve().parents[1] / "fixtures" / "sqlite-v1"
T0 = 1_700_000_000_000


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    for file in V1.iterdir():
        shutil.copy(file, tmp_path)
    async with open_log(f"sqlite://{tmp_path}/events.db?create=false", clock=ManualClock(T0 + 10_000)) as opened:
        yield opened


async def test_version_1_keeps_its_topics(log: Log) -> None:
    kv, plain = await log.topics()
    assert (kv.name, kv.partitions, kv.retention) == ("kv", 2, Retention(max_age_s=86400.0, max_bytes=1 << 30))
    assert dict(kv.labels) == {"block_size": "64"}
    assert (plain.name, plain.partitions, plain.retention) == ("plain", 1, Retention())


async def test_version_1_keeps_every_field_of_its_records(log: Log) -> None:
    first = await log.read(await log.position("kv", 0))
    assert [(stored.offset, stored.log_time_ms, stored.record) for stored in first] == [
        (1, T0, Record(parts=(b"one", b"\x00\xff"), key=b"k", headers={"h": b"v"}, timestamp_ms=-5)),
        (2, T0 + 1000, Record(parts=(b"two",), mark=Mark("worker-1", 1, 0))),
        (3, T0 + 1000, Record(control=Control.TOMBSTONE, key=b"")),
        (4, T0 + 1000, Record(parts=(b"four",), mark=Mark("worker-1", 1, 1))),
    ]
    second = await log.read(await log.position("kv", 1))
    assert [stored.record for stored in second] == [
        Record(parts=(bytes(range(256)) * 40,), mark=Mark("file:abc", 0, 7))
    ]
    plain = await log.read(await log.position("plain", 0))
    assert [body[0] for body in plain.bodies] == [b"4", b"5", b"6", b"7", b"8", b"9"]


async def test_version_1_keeps_holders_groups_and_events(log: Log) -> None:
    states = await log.holders("kv")
    assert [state.holder for state in states] == [
        Holder("group:workers", HolderKind.NAMED, {0: 2}),
        Holder("router", HolderKind.PINNED, {0: 1}),
    ]
    assert await log.committed("workers", "kv") == GroupState("workers", 1, {0: 2})
    assert [event.kind for event in await log.events("plain")] == ["truncation-forced"]


async def test_version_1_knows_its_producers_and_goes_on(log: Log) -> None:
    again = await log.append("kv", 0, [Record(parts=(b"two",), mark=Mark("worker-1", 1, 0)), Record(parts=(b"new",))])
    assert (again.offsets, again.duplicates) == ((2, 5), 1)
    assert await log.register_producer("worker-1") == 2
    with pytest.raises(ProducerFenced):
        await log.append("kv", 1, [Record(mark=Mark("worker-1", 1, 2))])
    assert [damage async for damage in log.verify()] == []
