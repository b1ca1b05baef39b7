"""Housekeeping: what it costs, what it gives back, and that closing waits for it without holding anybody up."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from dynlog.errors import LogUnavailable
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.storage.sqlite import backup, care, holders, reads, retention, rows, waiters
from dynlog.storage.sqlite.failures import translated
from dynlog.topics import Holder, HolderKind, Retention
from tests.cancelling import cancelled_as_it_ends

MIB = 1 << 20


async def fill(log: Log, partitions: int) -> None:
    await asyncio.gather(*(log.append("t", p, [Record((b"x" * 100,))]) for p in range(partitions)))


@pytest.fixture
def verified_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first offset of every row that was read whole."""
    rows: list[int] = []
    real = reads.verified

    def counting(topic: Any, partition: int, row: Any) -> memoryview:
        rows.append(row.base)
        return real(topic, partition, row)

    for module in (reads, retention):
        monkeypatch.setattr(module, "verified", counting)
    return rows


@pytest.mark.parametrize(
    "kept", [Retention(), Retention(max_bytes=1 << 30), Retention(max_age_s=3600.0)], ids=["all", "size", "age"]
)
async def test_housekeeping_that_finds_nothing_to_do_reads_no_record_of_any_partition_for_any_holder(
    tmp_path: Path, verified_rows: list[int], kept: Retention
) -> None:
    async with open_log(f"sqlite://{tmp_path}/events.db") as log:
        await log.create_topic("t", partitions=50, retention=kept)
        await fill(log, 50)
        for number in range(10):
            await log.hold("t", Holder(f"h{number}", HolderKind.NAMED, dict.fromkeys(range(50), 0)))
        assert await log.enforce_retention("t") == []
        assert (await log.truncate("t", 0, 1)).blocked_by
    assert verified_rows == []


async def test_holders_are_looked_at_once_however_many_partitions_retention_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(f"sqlite://{tmp_path}/events.db") as log:
        await log.create_topic("t", partitions=50, retention=Retention(max_bytes=1))
        await fill(log, 50)
        calls: list[str] = []
        real = holders.expel

        def counting(tx: Any, topic: Any, now_ms: int) -> None:
            calls.append("expel")
            real(tx, topic, now_ms)

        monkeypatch.setattr(retention, "expel", counting)
        cut = await log.enforce_retention("t")
    assert (len(cut), calls) == (50, ["expel"])


async def test_a_truncation_that_was_cut_short_gives_its_space_back_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.db"
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        for _ in range(16):
            end = (await log.append("t", 0, [Record((os.urandom(MIB // 2),))])).end_offset
        with monkeypatch.context() as patched:
            patched.setattr(care, "shrink_step", lambda *_: False)  # as if it was killed before it came to this
            await log.truncate("t", 0, end)
    assert path.stat().st_size > 8 * MIB
    async with open_log(f"sqlite://{path}") as log:
        await log.truncate("t", 0, end)
    assert path.stat().st_size < MIB


async def test_closing_while_a_backup_runs_holds_up_no_other_task_of_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(*_: object) -> None:
        begun.set()
        in_time.append(may_end.wait(5.0))

    monkeypatch.setattr(backup, "backup", slow)
    async with open_log(f"sqlite://{tmp_path}/events.db") as log:
        copying = asyncio.create_task(log.backup(tmp_path / "copy.db"))
        await asyncio.to_thread(begun.wait)
        closing = asyncio.create_task(log.close())
        await asyncio.wait([closing], timeout=0.2)
        may_end.set()
        await asyncio.gather(copying, closing)
    assert in_time == [True]


async def test_a_log_is_the_same_log_when_it_is_opened_through_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "events.db", tmp_path / "link.db"
    real.parent.mkdir()
    link.symlink_to(real)
    async with open_log(f"sqlite://{link}") as log:
        await log.create_topic("t")
    async with open_log(f"sqlite://{real}") as first, open_log(f"sqlite://{link}") as second:
        await first.append("t", 0, [Record((b"a",))])
        assert len(await second.read(await second.position("t", 0))) == 1
    assert sorted(os.listdir(tmp_path)) == ["link.db", "real"]  # noqa: PTH208


async def test_a_backup_that_returned_has_its_name_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "copy.db"
    named_then: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            named_then.append(target.exists())

    async with open_log(f"sqlite://{tmp_path}/events.db") as log:
        monkeypatch.setattr(os, "fsync", fsync)
        await log.backup(target)
    assert named_then[-1]


async def test_many_topics_are_read_once_although_two_processes_take_turns_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = rows.topic_row

    def counting(topic: int, values: list[Any]) -> rows.TopicRow:
        read.append(topic)
        return real(topic, values)

    url = f"sqlite://{tmp_path}/events.db"
    async with open_log(url) as one, open_log(url) as two:
        for number in range(20):
            await one.create_topic(f"t{number}")
        await two.append("t0", 0, [Record((b"a",))])
        monkeypatch.setattr(rows, "topic_row", counting)
        for turn in range(20):
            await (two if turn % 2 else one).append("t0", 0, [Record((b"a",))])
        assert read == []
        await two.create_topic("late")
        await one.append("late", 0, [Record((b"a",))])


async def test_an_idle_log_is_not_asked_again_and_again_for_every_partition_that_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    real = waiters._ends_of

    def noting(places: list[waiters.Place], unless: int) -> Any:
        work = real(places, unless)

        def noted(view: Any) -> waiters.Seen:
            seen = work(view)
            looks.append(0 if seen[1] is None else len(seen[1]))
            return seen

        return noted

    monkeypatch.setattr(waiters, "_ends_of", noting)
    monkeypatch.setattr(waiters, "FALLBACK_S", 0.02)
    async with open_log(f"sqlite://{tmp_path}/events.db") as log:
        await log.create_topic("t", partitions=20)
        ends = [await log.position("t", partition, "end") for partition in range(20)]
        await asyncio.gather(*(log.read(end, wait=1.0) for end in ends))
    assert len(looks) > 5
    assert sum(looks) <= 2 * 20


@pytest.mark.parametrize("name", ["SQLITE_NOMEM", "SQLITE_PROTOCOL", "SQLITE_INTERRUPT", "SQLITE_BUSY_SNAPSHOT"])
def test_what_passes_by_itself_is_never_called_damage(name: str, tmp_path: Path) -> None:
    error = sqlite3.OperationalError("it happens")
    error.sqlite_errorcode = getattr(sqlite3, name)
    assert type(translated(error, tmp_path)) is LogUnavailable


async def test_a_cancellation_as_the_housekeeping_ends_is_not_lost(tmp_path: Path) -> None:
    async with open_log(f"sqlite://{tmp_path}/events.db") as log:
        housekeeping = log._care  # type: ignore[attr-defined]
        await cancelled_as_it_ends(housekeeping.close(), housekeeping._task)


def left_open(folder: Path) -> list[str]:
    """The files that are there only while somebody has the database open."""
    return [path.name for path in folder.iterdir() if path.name.endswith(("-wal", "-shm"))]


async def test_a_close_that_is_cancelled_as_the_housekeeping_ends_still_closes_the_database(tmp_path: Path) -> None:
    opening = open_log(f"sqlite://{tmp_path}/events.db")
    log = await opening.__aenter__()
    await log.create_topic("t")
    await fill(log, 1)
    closing = asyncio.create_task(log.close())
    log._care._task.add_done_callback(lambda _: log._closing.cancel())  # type: ignore[attr-defined]
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert not left_open(tmp_path)
