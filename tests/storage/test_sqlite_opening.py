"""Opening a SQLite log: sound, or refused by name, and a refusal changes nothing on the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dynlog.errors import (
    Closed,
    ConfigurationError,
    LogCorrupt,
    LogFull,
    NotALog,
    UnsupportedLocation,
    UnsupportedLogVersion,
)
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.storage.sqlite.location import check_location, filesystem_of
from dynlog.topics import DurabilityLevel
from tests.storage.damage import BELL, DB, WAL, build, content, url_of

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/share rw - nfs4 server:/export rw
31 22 0:41 / /mnt/share/local rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/with\\040space rw - fuse.sshfs host: rw
"""


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


async def open_and_close(url: str) -> None:
    async with open_log(url):
        pass


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    folder = tmp_path / "killed"
    folder.mkdir()
    build(folder, killed=True)
    return folder


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/events.db", "ext4"),
        ("/mnt/share/events.db", "nfs4"),
        ("/mnt/share/local/events.db", "xfs"),
        ("/mnt/shared/events.db", "ext4"),
        ("/mnt/with space/events.db", "fuse.sshfs"),
    ],
)
def test_the_longest_mount_point_decides_which_filesystem_a_path_is_on(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind


def test_a_network_filesystem_is_refused_by_name(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:40 / {tmp_path} rw - cifs //server/share rw\n")
    with pytest.raises(UnsupportedLocation, match="cifs"):
        check_location(tmp_path / "events.db", table)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/nowhere of the log events.db does not exist"):
        await open_and_close(f"sqlite://{tmp_path}/nowhere/events.db")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("sqlite://host/events.db", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///tmp/x.db?colour=red", "unknown option 'colour'"),
        ("sqlite:///tmp/x.db?synchronous=off", "full .* or normal"),
        ("sqlite:///tmp/x.db?page_size=1000", "power of two"),
        ("sqlite:///tmp/x.db?create=maybe", "true or false"),
    ],
)
async def test_a_url_that_makes_no_sense_is_refused(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        await open_and_close(url)


async def test_a_log_that_is_not_to_be_created_is_missed_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no log at .*/events\.db"):
        await open_and_close(f"sqlite://{tmp_path}/events.db?create=false")
    assert not files(tmp_path)


async def test_a_file_that_is_no_database_is_not_a_log_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear reader, " * 100)
    with pytest.raises(NotALog):
        await open_and_close(f"sqlite://{file}")
    assert file.read_text() == "Dear reader, " * 100


async def test_a_database_of_another_application_is_not_a_log_and_stays_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE mine (x)")
    before = files(tmp_path)
    with pytest.raises(NotALog, match="another application"):
        await open_and_close(f"sqlite://{tmp_path}/other.db")
    assert files(tmp_path) == before


async def test_a_log_of_a_newer_version_is_refused_by_its_number(tmp_path: Path) -> None:
    await open_and_close(url_of(tmp_path))
    with closing(sqlite3.connect(tmp_path / DB)) as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(UnsupportedLogVersion, match="version 2"):
        await open_and_close(url_of(tmp_path))


async def test_an_old_copy_of_the_database_under_a_newer_bell_is_refused(killed: Path, tmp_path: Path) -> None:
    old = (killed / DB).read_bytes()
    whole = await content(url_of(killed))
    assert whole
    (killed / DB).write_bytes(old)
    with pytest.raises(LogCorrupt, match=r"commit .* was acknowledged.*dynlog log repair"):
        await open_and_close(url_of(killed))


async def test_a_refused_log_keeps_its_write_ahead_log_for_the_repair(killed: Path) -> None:
    wal = bytearray((killed / WAL).read_bytes())
    wal[len(wal) // 2] ^= 1
    (killed / WAL).write_bytes(wal)
    before = files(killed)
    with pytest.raises(LogCorrupt, match="tail is lost"):
        await open_and_close(url_of(killed))
    assert files(killed) == before


@pytest.mark.parametrize("keep", [[BELL], [BELL, WAL], [WAL]])
async def test_a_database_that_is_gone_is_missed_and_not_created_anew(killed: Path, keep: list[str]) -> None:
    for name in files(killed):
        if name not in keep:
            (killed / name).unlink()
    with pytest.raises(LogCorrupt, match="empty or gone"):
        await open_and_close(url_of(killed))
    assert set(files(killed)) == set(keep)


async def test_a_missing_bell_is_named_and_so_is_another_logs(killed: Path, tmp_path: Path) -> None:
    await open_and_close(f"sqlite://{tmp_path}/other.db")
    shutil.copy(tmp_path / "other.db-bell", killed / BELL)
    with pytest.raises(LogCorrupt, match="another log's"):
        await open_and_close(url_of(killed))
    (killed / BELL).unlink()
    with pytest.raises(LogCorrupt, match="is missing"):
        await open_and_close(url_of(killed))


async def test_many_may_create_the_same_log_at_once(tmp_path: Path) -> None:
    async def one(_: int) -> str:
        async with open_log(f"sqlite://{tmp_path}/events.db") as log:
            await log.create_topic("t", exist_ok=True)
            return log.identity

    assert len(set(await asyncio.gather(*map(one, range(8))))) == 1


async def test_a_process_that_was_forked_while_the_log_was_open_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    async with open_log(url) as log:
        await log.create_topic("t")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            said = []
            with suppress(BaseException):
                asyncio._set_running_loop(None)
                for attempt in (log.topics(), open_and_close(url), open_and_close(f"sqlite://{tmp_path}/own.db")):
                    try:
                        asyncio.new_event_loop().run_until_complete(attempt)
                        said.append("opened")
                    except (Closed, ConfigurationError) as error:
                        said.append(type(error).__name__)
                os.write(writing, " ".join(said).encode())
            os._exit(0)
        os.close(writing)
        await asyncio.to_thread(os.waitpid, child, 0)
        said_by_child = os.read(reading, 1000)
        os.close(reading)
        await log.append("t", 0, [Record((b"a",))])
    assert said_by_child == b"Closed ConfigurationError opened"
    await open_and_close(url)


async def test_without_fsync_the_log_declares_that_it_survives_a_kill_only(tmp_path: Path) -> None:
    async with open_log(f"sqlite://{tmp_path}/events.db?synchronous=normal") as log:
        assert log.capabilities.durability.level is DurabilityLevel.PROCESS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(point)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small filesystem needs root")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


async def test_a_full_disk_stores_nothing_of_the_append_and_the_log_goes_on_once_there_is_space(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    async with open_log(f"sqlite://{small_disk}/events.db") as log:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"before",))])
        fill_up(ballast)
        for _ in range(3):
            with pytest.raises(LogFull, match="no space"):
                await log.append("t", 0, [Record(parts=(bytes(200_000),))])
        ballast.unlink()
        assert (await log.append("t", 0, [Record(parts=(b"after",))])).offsets == (1,)
        batch = await log.read(await log.position("t", 0))
        assert [body[0] for body in batch.bodies] == [b"before", b"after"]
        assert [damage async for damage in log.verify()] == []


@pytest.mark.parametrize("step", [1, 1000], ids=["little-by-little", "all-at-once"])
async def test_a_disk_that_the_log_has_filled_up_is_freed_by_truncation(small_disk: Path, step: int) -> None:
    async with open_log(f"sqlite://{small_disk}/events.db") as log:
        await log.create_topic("t")
        end = 0
        for size in (50_000, 500):
            with suppress(LogFull):
                while True:
                    end = (await log.append("t", 0, [Record((os.urandom(size),))])).end_offset
        for before in [*range(step, end, step), end]:
            await log.truncate("t", 0, before)
        for _ in range(5):
            await log.append("t", 0, [Record((os.urandom(50_000),))])
        assert [damage async for damage in log.verify()] == []


async def test_a_folder_that_cannot_be_written_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: ASYNC221
    with pytest.raises(ConfigurationError, match=f"{small_disk}/events.db"):
        await open_and_close(f"sqlite://{small_disk}/events.db")


async def test_a_log_that_cannot_be_written_is_named(small_disk: Path) -> None:
    await open_and_close(f"sqlite://{small_disk}/events.db")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: ASYNC221
    with pytest.raises(ConfigurationError, match=f"{small_disk}/events.db"):
        await open_and_close(f"sqlite://{small_disk}/events.db")
