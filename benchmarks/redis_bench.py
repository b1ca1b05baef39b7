"""The Redis log against plain pipelined redis-py on the same server in the same run.

The peer does what a careful user without dynlog would: one stream entry per record, XADDs in pipelines of `BATCH`
(without MULTI), XRANGE in pages of 1,000 to replay.  Rounds of both alternate and the best of each counts, since other
load only ever slows one down; they are many and short, so that both find a quiet moment.  The server keeps an
append-only file with ``appendfsync everysec``, so that the disk does not decide; ``always`` is measured beside it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.follow import publish
from benchmarks.report import Row
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.testing.redis import RedisServer

BATCH = 100
SIZE = 100
PRODUCERS = 64
IN_FLIGHT = 8
ROUNDS = 8
PAGE = 1_000


def run(quick: bool) -> list[Row]:
    """Append, replay and follow, each beside its peer."""
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return asyncio.run(_measure(Path(folder), 4_000 if quick else 30_000))


async def _measure(folder: Path, records: int) -> list[Row]:
    rows: list[Row] = []
    for fsync in ("everysec", "always"):
        async with RedisServer(folder / fsync, appendfsync=fsync) as server:
            rows += await _against(server, records, f"appendfsync {fsync}")
            rows += await _latency(server, 200 if records < 10_000 else 1_000, f"appendfsync {fsync}")
    return rows


async def _against(server: RedisServer, records: int, note: str) -> list[Row]:
    async with Redis.from_url(server.url, socket_timeout=None) as plain, open_log(f"{server.url}?prefix=b") as log:
        for topic in ("batches", "single"):
            await log.create_topic(topic)
        appends: list[tuple[str, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]] = [
            (
                f"append, {BATCH} records of {SIZE} B each, one in flight",
                lambda: _ours(log, "batches", records // 2, BATCH, 1),
                lambda: _plain(plain, records // 2, BATCH, 1),
            ),
            (
                f"append, {BATCH} records of {SIZE} B each, {IN_FLIGHT} in flight",
                lambda: _ours(log, "batches", records // 2, BATCH, IN_FLIGHT),
                lambda: _plain(plain, records // 2, BATCH, IN_FLIGHT),
            ),
            (
                f"append, {PRODUCERS} producers of one record of {SIZE} B",
                lambda: _ours(log, "single", records // 10, 1, PRODUCERS),
                lambda: _plain(plain, records // 10, 1, PRODUCERS),
            ),
        ]
        replays: list[tuple[str, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]] = [
            (
                f"replay, appended {BATCH} at a time",
                lambda: _replay(log, "batches", records),
                lambda: _range(plain, records),
            ),
            (
                "replay, appended one by one",
                lambda: _replay(log, "single", records // 2),
                lambda: _range(plain, records // 2),
            ),
        ]
        rows = []
        for name, ours, peer in appends + replays:
            found: tuple[list[float], list[float]] = ([], [])
            for _ in range(ROUNDS):
                found[0].append(await ours())
                found[1].append(await peer())
            rows.append(Row(name, max(found[0]), "records/s", max(found[1]), ">= 0.8x", f"{note}; peer: redis-py"))
        return rows


async def _latency(server: RedisServer, count: int, note: str) -> list[Row]:
    found = await publish(f"{server.url}?prefix=follow", count)
    latencies, appends, idle = found["latencies"], found["appends"], found["idle"]
    assert isinstance(latencies, list)
    assert isinstance(appends, list)
    assert isinstance(idle, float)
    rows = []
    for name, share in (("p50", 50), ("p99", 99)):
        ours = statistics.quantiles(latencies, n=100)[share - 1]
        peer = statistics.quantiles(appends, n=100)[share - 1]
        said = f"{note}; from before the append to seen in another process; peer: the append's own acknowledgement"
        rows.append(Row(f"follow {name}", ours, "ms", peer=peer, note=said))
    rows.append(Row("idle follower", idle * 100, "% of a core", required="<= 1"))
    return rows


async def _ours(log: Log, topic: str, records: int, batch: int, tasks: int) -> float:
    """Records per second with marks, as a producer appends them."""
    body = os.urandom(SIZE)
    source = f"bench-{time.monotonic_ns()}"

    async def one(number: int) -> None:
        for turn in range(records // batch // tasks):
            await log.append(
                topic,
                0,
                [Record(parts=(body,), mark=Mark(f"{source}-{number}", 1, turn * batch + i)) for i in range(batch)],
            )

    return await _rate(one, records // batch // tasks * batch * tasks, tasks)


async def _plain(plain: Any, records: int, batch: int, tasks: int) -> float:
    body = os.urandom(SIZE)

    async def one(number: int) -> None:
        for _ in range(records // batch // tasks):
            pipeline = plain.pipeline(transaction=False)
            for _ in range(batch):
                pipeline.xadd("plain", {"body": body})
            await pipeline.execute()

    return await _rate(one, records // batch // tasks * batch * tasks, tasks)


async def _rate(work: Callable[[int], Awaitable[None]], records: int, tasks: int) -> float:
    async def task(number: int) -> None:
        await work(number)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(task(number))
    return records / (time.perf_counter() - start)


async def _replay(log: Log, topic: str, most: int) -> float:
    position = await log.position(topic, 0)
    count, start = 0, time.perf_counter()
    while True:
        batch = await log.read(position)
        count += len(batch)
        position = batch.next_position
        if count >= most or batch.next_offset == batch.end_offset:
            return count / (time.perf_counter() - start)


async def _range(plain: Any, most: int) -> float:
    start, count, after = time.perf_counter(), 0, "-"
    while True:
        page = await plain.xrange("plain", min=after, count=PAGE)
        count += len(page)
        if count >= most or len(page) < PAGE:
            return count / (time.perf_counter() - start)
        after = f"({page[-1][0].decode()}"
