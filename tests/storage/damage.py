"""Damage on purpose: a small log, one flipped bit or a cut at every byte of its files, and what may come of it.

What is read through the public API is either exactly what was stored, or an error that names the damage.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dynlog.batch import Position
from dynlog.errors import LogCorrupt, NotALog, UnsupportedLogVersion
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Control, Mark, Record
from dynlog.topics import Holder, HolderKind

NAMED = (LogCorrupt, NotALog, UnsupportedLogVersion)
DB, WAL, BELL = "small.db", "small.db-wal", "small.db-bell"
WORKERS = 2


class Case(NamedTuple):
    """A bit of a byte to flip, or (bit -1) where to cut the file off."""

    file: str
    at: int
    bit: int = -1


def url_of(folder: Path) -> str:
    """The small log in a folder; the smallest pages make every byte count."""
    return f"sqlite://{folder / DB}?page_size=512"


async def fill(folder: Path) -> None:
    """What every small log begins with."""
    async with open_log(url_of(folder)) as log:
        await log.create_topic("t", partitions=2, labels={"block_size": "64"})
        await log.append("t", 0, [Record(parts=(b"first", b"part"), key=b"k", headers={"h": b"v"}, timestamp_ms=7)])
        await log.append("t", 1, [Record(parts=(bytes(700),), control=Control.END)])
        await log.hold("t", Holder("h", HolderKind.NAMED, {0: 0}))


async def append_more(log: Log) -> None:
    """What a killed process leaves in the write-ahead log."""
    await log.append("t", 0, [Record(parts=(b"second",), mark=Mark("p", 1, 0)), Record(parts=(b"third",))])
    for number in range(6):
        await log.append("t", number % 2, [Record(parts=(b"marked",), mark=Mark(f"producer-{number}", 1, number))])
    generation = await log.open_generation("g", "t")
    await log.commit("g", "t", {0: 2}, generation=generation)


def build(folder: Path, *, killed: bool) -> None:
    """A closed log, or one whose last writer was killed before it could checkpoint anything."""
    asyncio.run(fill(folder))
    code = f"import asyncio; from tests.storage import damage; asyncio.run(damage.go_on({str(folder)!r}, {killed}))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == (-signal.SIGKILL if killed else 0)
    assert (folder / WAL).exists() == killed


async def go_on(folder: str, killed: bool) -> None:
    """The other process's part."""
    async with open_log(url_of(Path(folder))) as log:
        await append_more(log)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)


async def content(url: str) -> Any:
    """Everything that the public API tells of a log."""
    async with open_log(url) as log:
        topics = await log.topics()
        told: list[Any] = [log.identity, [(t.name, t.incarnation, t.partitions, dict(t.labels)) for t in topics]]
        for topic in topics:
            states = await log.partitions(topic.name)
            told.append([(s.earliest, s.end, s.last_log_time_ms) for s in states])
            told.append([(h.holder, h.last_seen_ms, h.lag_records) for h in await log.holders(topic.name)])
            told.append(await log.committed("g", topic.name))
            told.append(await log.events(topic.name))
            for state in states:
                position = Position(topic.name, topic.incarnation, state.partition, state.earliest)
                told.append(await log.offset_at(topic.name, state.partition, state.last_log_time_ms))
                while True:
                    batch = await log.read(position)
                    told += list(batch)
                    position = batch.next_position
                    if batch.next_offset == batch.end_offset:
                        break
    return told


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where the system has one: tens of thousands of logs are opened."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def flips(folder: Path, file: str, rng: random.Random, step: int = 1) -> list[Case]:
    """One bit of every byte (or every ``step``-th)."""
    return [Case(file, at, rng.randrange(8)) for at in range(0, (folder / file).stat().st_size, step)]


def cuts(folder: Path, file: str, step: int = 1) -> list[Case]:
    """A cut before every byte (or every ``step``-th)."""
    return [Case(file, at) for at in range(0, (folder / file).stat().st_size, step)]


def apply(case: Case, original: bytes) -> bytes:
    """The damaged file."""
    if case.bit < 0:
        return original[: case.at]
    return original[: case.at] + bytes([original[case.at] ^ (1 << case.bit)]) + original[case.at + 1 :]


def violations(folder: Path, cases: Sequence[Case]) -> tuple[list[str], int]:
    """Cases whose outcome is neither the whole content nor a named error, and how many raised one."""
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        shares = [list(cases[start::WORKERS]) for start in range(WORKERS)]
        outcomes = list(pool.map(_run_share, [folder] * WORKERS, shares))
    return [text for found, _ in outcomes for text in found], sum(named for _, named in outcomes)


def _run_share(folder: Path, cases: list[Case]) -> tuple[list[str], int]:
    originals = {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}
    return asyncio.run(_try_all(originals, cases))


async def _try_all(originals: dict[str, bytes], cases: list[Case]) -> tuple[list[str], int]:
    found, named = [], 0
    with scratch() as place:

        def lay(files: dict[str, bytes]) -> None:
            shutil.rmtree(place)
            place.mkdir()
            for name, data in files.items():
                (place / name).write_bytes(data)

        lay(originals)
        whole = await content(url_of(place))
        for case in cases:
            lay({**originals, case.file: apply(case, originals[case.file])})
            try:
                told = await content(url_of(place))
            except NAMED:
                named += 1
            except Exception as error:
                found.append(f"{case} raised {type(error).__name__}: {error}")
            else:
                if told != whole:
                    found.append(f"{case} was not noticed: {told}")
    return found, named
