"""The writer and the bell: group commit, failures of the disk, and readers that wake although a bell did not ring."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dynlog.errors import LogCorrupt, LogUnavailable, OutcomeUnknown
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.storage.sqlite import bell, room, schema, waiters, writer
from dynlog.storage.sqlite.bell import Bell, Reading

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


def commits(path: Path) -> int:
    reading = bell.look(path)
    assert isinstance(reading, Reading)
    return reading.commit


async def bodies(log: Log) -> list[bytes]:
    batch = await log.read(await log.position("t", 0), max_bytes=64 * MIB)
    return [bytes(body[0]) for body in batch.bodies]


async def append(log: Log, body: bytes) -> None:
    await log.append("t", 0, [Record(parts=(body,))])


async def test_appends_that_queue_while_another_is_made_durable_share_one_commit(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        before = commits(path)
        await asyncio.gather(*(append(log, b"%d" % number) for number in range(200)))
        assert commits(path) - before <= 20
        assert len(await bodies(log)) == 200


async def test_a_slower_process_never_turns_the_bell_back(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    identity = bytes(range(16))
    bell.create(path, identity, 1)
    with contextlib.closing(Bell(path, identity)) as fast, contextlib.closing(Bell(path, identity)) as slow:
        for commit in (2, 3, 4):
            fast.ring(commit)
        slow.ring(2)
        assert fast.read() == slow.read() == 4
    assert bell.look(path) == Reading(identity, 4)


async def test_a_defect_in_the_writers_thread_is_told_at_once_to_all_who_wait_and_who_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entered, others_wait = threading.Event(), threading.Event()

    def defect(*_: object) -> bool:
        entered.set()
        assert others_wait.wait(10)
        raise RuntimeError("a defect")

    async with open_log(f"sqlite://{tmp_path}/events.db") as log, asyncio.timeout(20):
        await log.create_topic("t")
        await append(log, b"a")
        monkeypatch.setattr(room.Room, "is_there", defect)
        first = asyncio.create_task(append(log, b"first"))
        assert await asyncio.to_thread(entered.wait, 10)
        others = [asyncio.create_task(append(log, b"%d" % number)) for number in range(20)]
        await asyncio.sleep(0)
        others_wait.set()
        with pytest.raises(OutcomeUnknown, match="a defect"):
            await first
        for outcome in await asyncio.gather(*others, return_exceptions=True):
            assert isinstance(outcome, LogUnavailable)
            assert "nothing was stored" in str(outcome)
        with pytest.raises(LogUnavailable, match="open it again"):
            await append(log, b"later")
        assert await bodies(log) == [b"a"]
    assert "ends by a defect" in caplog.text


@pytest.mark.parametrize("gone", [["", "-bell", "-wal", "-shm"], ["-bell"], [""]], ids=["all", "bell", "database"])
async def test_what_is_appended_to_a_log_whose_files_were_deleted_is_not_acknowledged(
    tmp_path: Path, gone: list[str]
) -> None:
    path = tmp_path / "events.db"
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        await append(log, b"a")
        for suffix in gone:
            path.with_name(path.name + suffix).unlink()
        with pytest.raises(OutcomeUnknown, match="deleted, moved or replaced"):
            await append(log, b"b")
        with pytest.raises(LogUnavailable, match="open it again"):
            await append(log, b"c")


async def test_a_process_that_stops_while_it_rings_the_bell_holds_others_up_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "LOCK_PATIENCE_S", 0.2)
    path = tmp_path / "events.db"
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        with bell.bell_path(path).open("rb") as stopped:
            fcntl.flock(stopped, fcntl.LOCK_EX)
            with pytest.raises(OutcomeUnknown, match="is one stopped"):
                await append(log, b"1")
        await append(log, b"2")
        assert await bodies(log) == [b"1", b"2"]


async def test_a_commit_whose_bell_did_not_ring_before_the_kill_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        before = bell.bell_path(path).read_bytes()
        await append(log, b"last")
    bell.bell_path(path).write_bytes(before)
    async with open_log(f"sqlite://{path}") as log:
        assert await bodies(log) == [b"last"]
        await append(log, b"next")
    async with open_log(f"sqlite://{path}") as log:
        assert await bodies(log) == [b"last", b"next"]


async def test_a_waiting_read_wakes_although_the_bell_did_not_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite://{tmp_path}/events.db"
    async with open_log(url) as log, open_log(url) as other:
        await log.create_topic("t")
        reading = asyncio.create_task(log.read(await log.position("t", 0), wait=20))
        await log.partitions("t")  # the read is under way before the append
        monkeypatch.setattr(Bell, "ring", lambda self, commit: None)
        await append(other, b"silent")
        assert [body[0] for body in (await reading).bodies] == [b"silent"]


async def test_a_waiting_read_wakes_where_there_is_no_inotify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(path: Path) -> None:
        raise OSError("no inotify here")

    monkeypatch.setattr(waiters, "Watch", none)
    monkeypatch.setattr(waiters, "FALLBACK_S", 60.0)
    url = f"sqlite://{tmp_path}/events.db"
    async with open_log(url) as log, open_log(url) as other:
        await log.create_topic("t")
        for body in (b"1", b"2", b"3"):
            reading = asyncio.create_task(log.read(await log.position("t", 0, "end"), wait=20))
            await log.partitions("t")
            await append(other, body)
            assert [found[0] for found in (await reading).bodies] == [body]


DISK_THAT_FAILS = """
import asyncio, resource, signal, sys
from dynlog.errors import LogUnavailable, OutcomeUnknown
from dynlog.open import open_log
from dynlog.record import Record

async def main(url):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with open_log(url) as log:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"before",))])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            await log.append("t", 0, [Record(parts=(bytes(400_000),))])
        except OutcomeUnknown as error:
            print("first:", error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            await log.append("t", 0, [Record(parts=(b"again",))])
        except OutcomeUnknown as error:
            print("wrong:", error)
        except LogUnavailable as error:
            print("second:", error)
        print("reads:", len(await log.read(await log.position("t", 0))))

asyncio.run(main(sys.argv[1]))
"""


async def test_after_a_failed_write_nothing_is_retried_until_the_log_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/events.db"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", DISK_THAT_FAILS, url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, reads = done.stdout.splitlines()
    assert first.startswith("first:")
    assert "may or may not be stored" in first
    assert second.startswith("second:")
    assert "open it again" in second
    assert reads == "reads: 1"
    async with open_log(url) as log:
        assert await bodies(log) == [b"before"]
        await append(log, b"after")
        assert [damage async for damage in log.verify()] == []


class Relay:
    """Two threads that read from a snapshot each and take turns, so that one of them is always open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns = [threading.Semaphore(1), threading.Semaphore(0)]
        self._stop = False
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in (0, 1)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as db:
            while not self._stop:
                if not self._turns[number].acquire(timeout=0.1):
                    continue
                if db.in_transaction:
                    db.execute("COMMIT")
                db.execute("BEGIN")
                db.execute("SELECT count(*) FROM docs").fetchone()
                time.sleep(0.03)  # what a read of this length sees is always some commits old
                self._turns[1 - number].release()


async def test_readers_that_never_stop_do_not_let_the_write_ahead_log_grow_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAL_KEPT_BYTES", 8 * MIB)
    monkeypatch.setattr(schema, "WAL_KEPT_BYTES", 8 * MIB)
    monkeypatch.setattr(writer, "RESTART_EVERY_S", 0.0)
    path = tmp_path / "events.db"
    wal = path.with_name(path.name + "-wal")
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        with Relay(path):
            for _ in range(100):
                await append(log, bytes(MIB // 2))
                assert wal.stat().st_size < 32 * MIB


async def test_who_writes_much_overwrites_a_log_that_was_laid_out_and_who_writes_little_lays_out_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    wal = path.with_name(path.name + "-wal")
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t")
        for number in range(8):
            await append(log, b"%d" % number)
        assert wal.stat().st_size < MIB
        await append(log, bytes(MIB // 2))
        await append(log, b"last")  # what is laid out after the first is there before the second
        long = wal.stat().st_size
        assert schema.CHECKPOINT_BYTES < long < schema.CHECKPOINT_BYTES + 4 * MIB
        assert path.stat().st_size < 4 * MIB, "only the write-ahead log is"
        for _ in range(20):
            await append(log, bytes(MIB // 4))
        assert wal.stat().st_size == long
        crashed = tmp_path / "crashed.db"
        for end in ("", "-wal", "-bell"):
            crashed.with_name(crashed.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
        stored = await bodies(log)
    async with open_log(f"sqlite://{crashed}") as log:
        assert await bodies(log) == stored
        assert len(stored) == 30
        assert [damage async for damage in log.verify()] == []


@pytest.mark.parametrize("why", ["no fsync is waited for", "the disk has no plenty of room"])
async def test_nothing_is_laid_out_where_it_would_gain_nothing_or_take_what_others_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    path = tmp_path / "events.db"
    options = "?synchronous=normal" if "fsync" in why else ""
    if not options:
        monkeypatch.setattr(room, "PLENTY_BYTES", 1 << 60)
    async with open_log(f"sqlite://{path}{options}") as log:
        await log.create_topic("t")
        await append(log, bytes(MIB // 2))
        await append(log, b"last")
        assert path.with_name(path.name + "-wal").stat().st_size < 4 * MIB


async def test_a_log_that_is_opened_twice_in_one_process_keeps_its_locks_when_one_is_closed(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/events.db"
    async with open_log(url) as log:
        await log.create_topic("t")
        for number in range(5):
            async with open_log(url) as other:
                await asyncio.gather(append(log, b"a%d" % number), append(other, b"b%d" % number))
        assert sorted(await bodies(log)) == sorted(b"%c%d" % (who, n) for who in b"ab" for n in range(5))


async def test_a_damaged_log_refuses_appends_to_the_damaged_partition_and_takes_others(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with open_log(f"sqlite://{path}") as log:
        await log.create_topic("t", partitions=2)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE docs SET frame = zeroblob(20) WHERE key = 'part/00000001/0000'")
    async with open_log(f"sqlite://{path}") as log:
        outcomes = await asyncio.gather(
            append(log, b"x"), log.append("t", 1, [Record(parts=(b"y",))]), return_exceptions=True
        )
        assert isinstance(outcomes[0], LogCorrupt)
        assert not isinstance(outcomes[1], BaseException)
