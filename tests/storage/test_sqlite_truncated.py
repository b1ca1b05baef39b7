"""A log whose files were cut off: named, salvaged as far as it goes, or refused with the advice to restore a backup.

Every cut is tried on a log that was closed and on one whose writer was killed, so that much of it is still in the
write-ahead log.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from dynlog.errors import LogCorrupt
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.topics import Damage, Holder, HolderKind
from tests.storage.damage import BELL, DB, NAMED, WAL, scratch, url_of

pytestmark = pytest.mark.timeout(240)
STEP = 512
APPENDS = 24
MINE = "run 'dynlog log verify'"

Told = dict[int, list[tuple[int, bytes]]]


class Outcome(NamedTuple):
    """What became of a cut log: how much could be read afterwards (-1: nothing could be salvaged), and whether a loss
    had to be accepted."""

    cut: int
    records: int
    accepted: bool


async def write(log: Log, numbers: range) -> None:
    for number in numbers:
        size = 1500 if number % 8 == 7 else 150
        await log.append("t", number % 2, [Record((b"%d.%d" % (number, part), bytes(size))) for part in range(2)])
        await log.append("u", 0, [Record((b"u%d" % number,), mark=Mark("p", 1, number))])


async def go_on(folder: str) -> None:
    """The other process's part: it is killed with the second half in the write-ahead log."""
    async with open_log(url_of(Path(folder))) as log:
        await write(log, range(APPENDS // 2, APPENDS))
        os.kill(os.getpid(), signal.SIGKILL)


async def fill(folder: Path, appends: range) -> None:
    async with open_log(url_of(folder)) as log:
        await log.create_topic("t", partitions=2)
        await log.create_topic("u")
        await log.hold("t", Holder("h", HolderKind.NAMED, {0: 0}))
        await write(log, appends)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    asyncio.run(fill(folder, range(APPENDS)))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    asyncio.run(fill(folder, range(APPENDS // 2)))
    code = (
        f"import asyncio; from tests.storage import test_sqlite_truncated as t; asyncio.run(t.go_on({str(folder)!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == -signal.SIGKILL
    assert (folder / WAL).stat().st_size > 20_000
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many topics, whose documents lie all over the file."""
    folder = tmp_path_factory.mktemp("many")

    async def work() -> None:
        async with open_log(url_of(folder)) as log:
            for number in range(20):
                await log.create_topic(f"t{number}", partitions=1 + number % 3)
                for of in range(number + 1):
                    await log.append(
                        f"t{of}", of % 2 and of % 3, [Record((b"%d" % number,), mark=Mark("p", 1, number))]
                    )

    asyncio.run(work())
    return folder


@contextmanager
def cut_at(folder: Path, file: str, size: int) -> Iterator[Path]:
    with scratch() as place:
        for name in (DB, WAL, BELL):
            if (folder / name).exists():
                shutil.copy(folder / name, place / name)
        os.truncate(place / file, size)
        yield place


def files(folder: Path) -> dict[str, bytes]:
    return {
        file.name: data
        for file in folder.iterdir()
        if not file.name.endswith("-shm") and ((data := file.read_bytes()) or file.name == DB)
    }


async def told(log: Log, topic: str) -> Told:
    """Everything that can be read, by partition."""
    found: Told = {}
    for state in await log.partitions(topic):
        position = await log.position(topic, state.partition)
        mine = found.setdefault(state.partition, [])
        while True:
            batch = await log.read(position)
            mine += [(offset, bytes(body[0])) for offset, body in zip(batch.offsets, batch.bodies, strict=True)]
            position = batch.next_position
            if batch.next_offset == batch.end_offset:
                break
    return found


async def everything(folder: Path) -> dict[str, Told]:
    with cut_at(folder, BELL, 1024) as place:
        async with open_log(url_of(place)) as log:
            return {topic.name: await told(log, topic.name) for topic in await log.topics()}


async def damages(url: str) -> list[Damage]:
    async with open_log(url + "&create=false&repair=true") as log:
        return [damage async for damage in log.verify()]


async def quarantine(url: str, *, accept_loss: bool) -> list[Damage]:
    async with open_log(url + "&create=false&repair=true") as log:
        return await log.quarantine(accept_loss=accept_loss)


async def whole(url: str, full: dict[str, Told]) -> bool:
    """Whether it opens and reads as if nothing had happened; what it tells otherwise has to be an error by name."""
    try:
        async with open_log(url) as log:
            found = {topic.name: await told(log, topic.name) for topic in await log.topics()}
    except NAMED:
        return False
    assert found == full, "it was read shortened, in silence"
    return True


async def repaired(folder: Path, file: str, size: int, full: dict[str, Told]) -> Outcome | None:
    """Verifies and repairs one cut; None if it changed nothing."""
    with cut_at(folder, file, size) as place:
        if await whole(url_of(place), full):
            return None
    with cut_at(folder, file, size) as place:
        url, before = url_of(place), files(place)
        found, refusal = await tried(damages(url))
        assert MINE not in refusal
        assert files(place) == before, "looking changes nothing"
        assert bool(found) != bool(refusal)
        assert not [damage for damage in found if MINE in damage.reason]
        aside, refused = await tried(quarantine(url, accept_loss=False))
        accepted = "accept" in refused
        if refused:
            assert "restore" in refused
            assert files(place) == before, "a refusal changes nothing"
            aside, refused = await tried(quarantine(url, accept_loss=True))
        if refused:
            assert "restore a backup" in refused
            assert MINE not in refused
            assert files(place) == before, "a refusal changes nothing"
            return Outcome(size, -1, accepted)
        assert aside
        assert found
        assert await damages(url) == []
        return Outcome(size, await goes_on(url, full), accepted)


async def tried(work: Awaitable[list[Damage]]) -> tuple[list[Damage], str]:
    """What came of it, and how it was refused."""
    try:
        return await work, ""
    except NAMED as error:
        return [], str(error)


async def goes_on(url: str, full: dict[str, Told]) -> int:
    """Whether what is left is true and is appended to; how many records that is."""
    count = 0
    async with open_log(url) as log:
        topics = await log.topics()
        for topic in topics:
            left = await told(log, topic.name)
            if len(topics) < len(full):
                assert "topics are gone" in "".join(event.detail for event in await log.events(topic.name))
            for partition, mine in left.items():
                assert set(mine) <= set(full[topic.name][partition]), "nothing is made up"
                count += len(mine)
                kept = mine != full[topic.name][partition]
                ended = [event.kind for event in await log.events(topic.name)]
                assert not kept or ended, "what is lost is recorded"
                end = (await log.partitions(topic.name))[partition].end
                if end < len(full[topic.name][partition]):
                    assert "loss-accepted" in ended, (
                        "offsets that were acknowledged come again in a new incarnation only"
                    )
                appended = await log.append(topic.name, partition, [Record((b"on",))])
                assert appended.offsets == (end,)
                assert (await told(log, topic.name))[partition] == [*mine, (end, b"on")]
        assert [damage async for damage in log.verify()] == []
    return count


async def sweep(folder: Path, file: str, step: int = STEP) -> list[Outcome]:
    full = await everything(folder)
    size = (folder / file).stat().st_size
    outcomes = [await repaired(folder, file, cut, full) for cut in [*range(0, size, step), 100, 300, size - 1]]
    return [outcome for outcome in outcomes if outcome is not None]


async def test_a_closed_log_cut_anywhere_is_named_and_salvaged_or_a_backup_is_advised(closed: Path) -> None:
    size = (closed / DB).stat().st_size
    outcomes = await sweep(closed, DB)
    assert len(outcomes) >= size // STEP, "each of these cuts loses something"
    salvaged = [outcome for outcome in outcomes if outcome.records > 0]
    assert len(salvaged) > len(outcomes) // 3
    assert max(outcome.records for outcome in salvaged) > APPENDS * 2


async def test_a_database_cut_below_its_write_ahead_log_is_named_and_salvaged_or_a_backup_is_advised(
    killed: Path,
) -> None:
    outcomes = await sweep(killed, DB)
    assert [outcome for outcome in outcomes if outcome.records > 0]


async def test_documents_that_are_gone_are_missed_and_end_an_incarnation_only_when_that_is_accepted(
    many: Path,
) -> None:
    outcomes = await sweep(many, DB, 2 * STEP)
    assert [outcome for outcome in outcomes if outcome.accepted and outcome.records > 0]


async def test_a_write_ahead_log_cut_anywhere_keeps_what_lies_before_the_cut(killed: Path) -> None:
    outcomes = await sweep(killed, WAL)
    assert outcomes
    assert min(outcome.records for outcome in outcomes) >= APPENDS // 2


@pytest.mark.parametrize("kept", [20_000, 120_000])
async def test_a_large_log_cut_off_keeps_the_records_before_the_cut(tmp_path: Path, kept: int) -> None:
    url = f"sqlite://{tmp_path / DB}"
    async with open_log(url) as log:
        await log.create_topic("t")
        for number in range(60):
            await log.append("t", 0, [Record((b"%d" % number, os.urandom(3000)))])
        before = await log.position("t", 0)
    os.truncate(tmp_path / DB, kept)
    with pytest.raises(LogCorrupt, match=f"truncated.*{kept}.*dynlog log verify"):
        async with open_log(url):
            pass
    url += "?page_size=4096"
    assert any("truncated" in damage.reason for damage in await damages(url))
    assert await quarantine(url, accept_loss=False)
    async with open_log(url) as log:
        left = (await told(log, "t"))[0]
        assert left == [(number, b"%d" % number) for number in range(len(left))]
        assert len(left) >= (kept - 8 * 4096) // 3500
        assert await log.position("t", 0) == before, "the end is known, so no offset comes again"
        assert (await log.append("t", 0, [Record((b"on",))])).offsets == (60,)
