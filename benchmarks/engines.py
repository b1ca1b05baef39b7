"""All engines side by side: the same work on each, one after the other, on the same disk in the same run.

What an acknowledged append survives differs and is declared by the engine (``durability`` in the notes): compare within
a level.  Every server is started for this run, in a folder of its own, and stopped before the next one starts; MinIO
runs beside all of them, idle but for the rows that name it.  The best of `ROUNDS` counts, since other load only ever
slows one down.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

import dynlog
from benchmarks import follow, kafka_bench, s3_bench
from benchmarks.rebuild import TOPIC, write
from benchmarks.report import Row, _short, report_console
from benchmarks.snapshot import MANUAL
from benchmarks.sqlite_append import BATCH, IN_FLIGHT, PRODUCERS, SMALL, _appends, _replay
from benchmarks.workloads import WORKLOADS, block_ops, records_of
from dynlog.heap import settle_heap
from dynlog.log import Log
from dynlog.record import Record
from dynlog.router.projection import RouterProjection
from dynlog.router.state import RouterState
from dynlog.testing.kafka import KafkaServer
from dynlog.testing.minio import MinioServer
from dynlog.testing.redis import RedisServer

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 3
REPLAYED_AT_ONCE = 200
PARTITIONS = 8
FOLLOW_TIMEOUT_S = 60.0
BUCKET = "bench"
ONE_PROCESS = "memory"
"""The engine that no other process can follow."""

Place = Callable[[str], str]
"""The URL of a log of its own, by its name."""
Start = Callable[[Path], AbstractAsyncContextManager[Place]]


class Sizes(NamedTuple):
    """How much of each work."""

    appends: int
    each_producer: int
    replayed: int
    followed: int
    rounds: int


FULL, QUICK = Sizes(400, 50, 100_000, 500, ROUNDS), Sizes(40, 5, 10_000, 100, 1)


class Router(NamedTuple):
    """The router's log of workload A, and the object stores that its snapshots go to."""

    records: list[Record]
    operations: int
    stores: dict[str, Place]


def run(quick: bool) -> list[Row]:
    """The rows of all engines, measure by measure; prints them as one table with a column for each engine."""
    # /tmp is no disk on some machines; beside the results is, and git does not look there.
    with tempfile.TemporaryDirectory(dir=RESULTS, prefix="dynlog-bench-") as folder:
        rows = asyncio.run(_measure(Path(folder), QUICK if quick else FULL))
    report_console().print(side_by_side(rows))
    return rows


def side_by_side(rows: Sequence[Row]) -> Table:
    """One line for each measure, one column for each engine; rows are named ``measure: engine``."""
    found = {_named(row): row for row in rows}
    engines = list(dict.fromkeys(engine for _, engine in found))
    table = Table(title="engines, side by side", title_justify="left", header_style="bold")
    table.add_column("")
    for engine in engines:
        table.add_column(engine, justify="right")
    table.add_column("unit")
    for measure in dict.fromkeys(measure for measure, _ in found):
        line = [found.get((measure, engine)) for engine in engines]
        unit = next(row.unit for row in line if row is not None)
        table.add_row(measure, *("" if row is None else _short(row.value) for row in line), unit)
    return table


@asynccontextmanager
async def _memory(_: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as handles:  # a log in memory lives as long as somebody holds it open
        for name in ("main", "file", "s3"):
            await handles.enter_async_context(dynlog.open_log(f"memory://bench-{name}"))
        yield lambda name: f"memory://bench-{name}"


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Place]:
    yield lambda name: f"sqlite://{folder}-{name}.db"


@asynccontextmanager
async def _redis(folder: Path, *, fsync: str) -> AsyncIterator[Place]:
    async with RedisServer(folder, appendfsync=fsync) as server:
        yield lambda name: f"{server.url}?prefix={name}"


@asynccontextmanager
async def _kafka(folder: Path) -> AsyncIterator[Place]:
    async with KafkaServer(folder, await _provided(kafka_bench.PROGRAM)) as server:
        yield lambda name: f"kafka://{server.address}/{name}"


ENGINES: dict[str, Start] = {
    ONE_PROCESS: _memory,
    "sqlite": _sqlite,
    "redis always": partial(_redis, fsync="always"),
    "redis everysec": partial(_redis, fsync="everysec"),
    "kafka": _kafka,
}


async def _measure(folder: Path, sizes: Sizes) -> list[Row]:
    events = WORKLOADS[0].events()
    measured: list[list[Row]] = []
    async with MinioServer(folder / "minio", program=await _provided(s3_bench.PROVIDER)) as minio:
        await minio.make_bucket(BUCKET)
        for number, (engine, start) in enumerate(ENGINES.items()):
            prefix = f"{number}"
            stores: dict[str, Place] = {
                "file": lambda name, prefix=prefix: f"file://{folder}/objects-{prefix}-{name}",  # type: ignore[misc]
                "s3": lambda name, prefix=prefix: minio.url(BUCKET, f"{prefix}-{name}"),  # type: ignore[misc]
            }
            router = Router(records_of(events), block_ops(events), stores)
            begun = time.perf_counter()
            async with start(folder / prefix) as place:
                measured.append([row async for row in _engine(engine, place, router, sizes)])
            report_console().print(f"{engine}: measured in {time.perf_counter() - begun:.0f} s")
    # Measure by measure, in the order of an engine that has them all.
    measures = [_named(row)[0] for row in max(measured, key=len)]
    return sorted((row for rows in measured for row in rows), key=lambda row: measures.index(_named(row)[0]))


def _named(row: Row) -> tuple[str, str]:
    """Measure and engine."""
    measure, _, engine = row.name.rpartition(": ")
    return measure, engine


async def _engine(engine: str, place: Place, router: Router, sizes: Sizes) -> AsyncIterator[Row]:
    async with dynlog.open_log(place("main")) as log:
        level = f"durability: {log.capabilities.durability}"
        for topic in ("batches", "replay"):
            await log.create_topic(topic)
        await log.create_topic("small", partitions=PARTITIONS)
        rate = await _best(lambda: _appends(log, sizes.appends, IN_FLIGHT), sizes.rounds)
        yield Row(f"append of 25.6 kB, {IN_FLIGHT} in flight: {engine}", rate, "batches/s", note=level)
        rate = await _best(lambda: _producers(log, sizes.each_producer), sizes.rounds)
        yield Row(f"{PRODUCERS} producers, single records of {SMALL} B: {engine}", rate, "records/s", note=level)
        small = [Record(parts=(bytes(BATCH // 256),)) for _ in range(REPLAYED_AT_ONCE)]
        for _ in range(sizes.replayed // REPLAYED_AT_ONCE):
            await log.append("replay", 0, small)
        rate = await _best(lambda: _replay(log, "replay"), sizes.rounds)
        yield Row(f"replay of records of 100 B: {engine}", rate, "records/s")
    if engine != ONE_PROCESS:
        for row in await _followed(engine, place("follow"), sizes.followed):
            yield row
    for store, stored in router.stores.items():
        await write(place(store), router.records)
        if store == "file":
            rate = await _best(lambda: _rebuild(place("file"), router.operations), sizes.rounds)
            note = f"{len(router.records)} events, one a record; free on all cores"
            yield Row(f"rebuild of router A: {engine}", rate, "M block ops/s", note=note)
        snapshots, restores, size = [], [], 0
        for _ in range(sizes.rounds):
            snapshot, restore, size = await _snapshot(place(store), stored("objects"))
            snapshots.append(snapshot)
            restores.append(restore)
        note = f"{size} bytes, read back and verified"
        yield Row(f"snapshot of router A, {store}: {engine}", min(snapshots) * 1000, "ms", note=note)
        yield Row(f"restore of router A, {store}: {engine}", min(restores) * 1000, "ms", note="until it is ready")


async def _producers(log: Log, each: int) -> float:
    """Records per second of producers that each wait for one record before they send the next."""
    body = bytes(SMALL)
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(dynlog.Producer(log, "small")) for _ in range(PRODUCERS)]

        async def one(number: int) -> None:
            for _ in range(each):
                await producers[number].send(Record(parts=(body,)), partition=number % PARTITIONS)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(PRODUCERS):
                group.create_task(one(number))
        return PRODUCERS * each / (time.perf_counter() - start)


async def _followed(engine: str, url: str, count: int) -> list[Row]:
    """A follower in another process: how late it sees a record, and what it costs while none comes."""
    async with asyncio.timeout(FOLLOW_TIMEOUT_S):
        found = await follow.publish(url, count)
    latencies, idle = found["latencies"], found["idle"]
    assert isinstance(latencies, list)
    assert isinstance(idle, float)
    quantiles = statistics.quantiles(latencies, n=100)
    seen = "from before the append to seen in another process"
    return [
        *(Row(f"follow p{share}: {engine}", quantiles[share - 1], "ms", note=seen) for share in (50, 99)),
        Row(f"idle follower: {engine}", idle * 100, "% of a core", note=f"over {follow.IDLE_S:g} s"),
    ]


async def _rebuild(url: str, operations: int) -> float:
    """Millions of block operations per second, from a closed log to a router that is ready."""
    settle_heap()
    begun = time.perf_counter()
    async with dynlog.open_log(url) as log:
        rebuilt = await dynlog.Replayer(log, TOPIC, RouterProjection).rebuild()
        seconds = time.perf_counter() - begun
        await rebuilt.reader.close()
    return operations / seconds / 1e6


async def _snapshot(url: str, objects_url: str) -> tuple[float, float, int]:
    """Seconds for a snapshot, and until a router is ready that comes back from it; the snapshot's bytes."""
    async with dynlog.open_log(url) as log, dynlog.open_objects(objects_url) as objects:
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            begun = time.perf_counter()
            manifest = await router.snapshot()
            taken = time.perf_counter() - begun
        begun = time.perf_counter()
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            return taken, time.perf_counter() - begun, manifest.size


async def _best(measure: Callable[[], Awaitable[float]], rounds: int) -> float:
    return max([await measure() for _ in range(rounds)])


async def _provided(script: Path) -> Path:
    """What one of scripts/servers provides; builds it if it is not there yet."""
    done = await asyncio.to_thread(subprocess.run, [script], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())
