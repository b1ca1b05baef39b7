"""The SQLite log against the disk itself: durable appends, many producers at once, and replay of small records.

The peer of the appends is a raw file on the same disk in the same run: ``write`` and ``fdatasync`` of the same bytes,
one after the other.  Rounds of both alternate and the best of each counts, since other load only ever slows one down.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks.report import Row
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record

BATCH = 25_600
IN_FLIGHT = 8
PRODUCERS = 64
SMALL = 256
ROUNDS = 5


def run(quick: bool) -> list[Row]:
    """Appends per second beside the raw file's, and replay."""
    appends = 200 if quick else 2_000
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        return asyncio.run(_measure(Path(folder), appends, 50_000 if quick else 1_000_000))


async def _measure(folder: Path, appends: int, small: int) -> list[Row]:
    async with open_log(f"sqlite://{folder}/events.db") as log:
        await log.create_topic("batches")
        await log.create_topic("small", partitions=8)
        raw: list[float] = []
        one: list[float] = []
        several: list[float] = []
        for _ in range(ROUNDS):
            raw.append(_raw(folder / "raw", appends, BATCH))
            one.append(await _appends(log, appends, 1))
            several.append(await _appends(log, appends, IN_FLIGHT))
        raw_small = max(_raw(folder / "raw", appends, SMALL) for _ in range(2))
        many = max([await _many(log, appends * 5) for _ in range(3)])
        body = [Record(parts=(os.urandom(BATCH // 256),)) for _ in range(200)]
        await log.create_topic("replay")
        for _ in range(small // len(body)):
            await log.append("replay", 0, body)
        replay = max([await _replay(log, "replay") for _ in range(3)])
        big = max([await _replay(log, "batches") for _ in range(2)])
    beside = "same disk, same run: write + fdatasync"
    return [
        Row("append of 25.6 kB, 8 in flight", max(several), "batches/s", max(raw), ">= 0.9x", beside),
        Row("append of 25.6 kB, one in flight", max(one), "batches/s", max(raw), "", beside),
        Row("64 producers of one 256 B record", many, "records/s", raw_small, "", "group commit; " + beside),
        Row("replay of records of 100 B", replay, "records/s"),
        Row("replay of batches of 25.6 kB", big, "batches/s"),
    ]


def _raw(path: Path, appends: int, size: int) -> float:
    """Appends per second of a raw file."""
    data = os.urandom(size)
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    try:
        start = time.perf_counter()
        for _ in range(appends):
            os.write(file, data)
            os.fdatasync(file)
        return appends / (time.perf_counter() - start)
    finally:
        os.close(file)


async def _appends(log: Log, appends: int, in_flight: int) -> float:
    record = [Record(parts=(os.urandom(BATCH),))]

    async def one() -> None:
        for _ in range(appends // in_flight):
            await log.append("batches", 0, record)

    return appends / await _timed(one, in_flight)


async def _many(log: Log, appends: int) -> float:
    record = [Record(parts=(os.urandom(SMALL),))]
    numbers = iter(range(PRODUCERS))

    async def one() -> None:
        partition = next(numbers) % 8
        for _ in range(appends // PRODUCERS):
            await log.append("small", partition, record)

    return appends // PRODUCERS * PRODUCERS / await _timed(one, PRODUCERS)


async def _timed(work: Callable[[], Coroutine[Any, Any, None]], times: int) -> float:
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            group.create_task(work())
    return time.perf_counter() - start


async def _replay(log: Log, topic: str) -> float:
    """Records per second from the earliest to the end."""
    position = await log.position(topic, 0)
    count = 0
    start = time.perf_counter()
    while True:
        batch = await log.read(position, max_bytes=4 << 20)
        count += len(batch)
        position = batch.next_position
        if batch.next_offset == batch.end_offset:
            return count / (time.perf_counter() - start)
