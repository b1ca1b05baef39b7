"""dynlog's key-value store beside etcd and NATS's, in the same run, at the same durability.

*On disk when acknowledged*: SQLite and Redis with ``appendfsync always``, etcd as it is, NATS with ``sync_interval:
always``.  *With the process, not with the power*: Redis with ``everysec``, and NATS as it is.  Everybody runs on one
node.  Rounds of all alternate, each in another order, and the median of each counts: the machines of a cloud slow down
and speed up from one second to the next, and the best of few rounds is whoever had the luckiest second.

A *get* is a read that may be a moment old: ours from memory, etcd's "serializable", NATS's direct get.  A *latest get*
sees every write that was acknowledged before it: ours asks the log where it ends, etcd whether it still leads; NATS has
none.  A *watcher* has a connection of its own, as if in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

from benchmarks.kv_peers import Store, open_etcd, open_nats
from benchmarks.report import Row
from dynlog.kv import Bucket, Changed, Ready, open_kv
from dynlog.open import open_log
from dynlog.testing.etcd import EtcdServer
from dynlog.testing.nats import NatsServer
from dynlog.testing.redis import RedisServer

SIZE = 100
KEYS = 512
MANY = 64
ROUNDS = 8
DISK, PROCESS = "on disk", "with the process"
DURABILITY = {
    "SQLite": DISK, "Redis, always": DISK, "etcd": DISK, "NATS, always": DISK,
    "Redis, everysec": PROCESS, "NATS": PROCESS,
}  # fmt: skip
PEERS = ("etcd", "NATS, always", "NATS")


class Dynlog:
    """dynlog's store, through its public interface."""

    BUCKET = "bench"

    def __init__(self, url: str, bucket: Bucket) -> None:
        self._url, self._bucket = url, bucket

    async def put(self, key: str, value: bytes) -> None:
        await self._bucket.put(key, value)

    async def get(self, key: str) -> bytes:
        entry = await self._bucket.get(key)
        assert entry is not None
        return entry.value

    async def get_latest(self, key: str) -> bytes | None:
        entry = await self._bucket.get(key, linearizable=True)
        assert entry is not None
        return entry.value

    async def watch(self, prefix: str, count: int, ready: asyncio.Event) -> None:
        async with open_log(self._url) as log, open_kv(log, compaction=None) as kv:
            bucket = await kv.bucket(self.BUCKET)
            async with bucket.watch(prefix=prefix) as watching:
                async for event in watching:
                    if isinstance(event, Ready):
                        ready.set()
                    count -= isinstance(event, Changed)
                    if not count:
                        return


@asynccontextmanager
async def open_dynlog(url: str) -> AsyncIterator[Dynlog]:
    """A bucket of its own on that log."""
    async with open_log(url) as log, open_kv(log, compaction=None) as kv:
        yield Dynlog(url, await kv.create(Dynlog.BUCKET))


def run(quick: bool) -> list[Row]:
    """Put, get, latest get and watch, each beside its peers."""
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return asyncio.run(_measure(Path(folder), quick))


async def _measure(folder: Path, quick: bool) -> list[Row]:
    async with AsyncExitStack() as stack:
        stores = await _stores(stack, folder)
        for store in stores.values():
            await _at_once(KEYS, MANY, lambda key, store=store: store.put(key, os.urandom(SIZE)))  # type: ignore[misc]
        share = 10 if quick else 1
        rounds = 1 if quick else ROUNDS
        rows: list[Row] = []
        for tasks, count in ((1, 500 // share), (MANY, 3_200 // share)):
            flight = "one in flight" if tasks == 1 else f"{tasks} in flight"
            found = await _medians(stores, 2 * rounds if tasks == 1 else rounds, _puts(count, tasks))
            rows += _rows(f"put, {flight}", "puts/s", found)
            rows += _rows(f"get, {flight}", "gets/s", await _medians(stores, rounds, _gets(count, tasks)))
            latest = {name: store for name, store in stores.items() if not name.startswith("NATS")}
            found = await _medians(latest, rounds, _latest(count, tasks))
            rows += _rows(f"latest get, {flight}", "gets/s", found)
        for watchers in (1, 8):
            found = await _medians(stores, rounds, _watched(3_200 // share, watchers))
            rows += _rows(f"watch, {watchers} watcher{'s' * (watchers > 1)}", "changes seen/s", found)
        return rows


async def _stores(stack: AsyncExitStack, folder: Path) -> Mapping[str, Store]:
    redis = {
        fsync: await stack.enter_async_context(RedisServer(folder / fsync, appendfsync=fsync))
        for fsync in ("always", "everysec")
    }
    etcd = await stack.enter_async_context(EtcdServer(folder / "etcd"))
    nats = await stack.enter_async_context(NatsServer(folder / "nats"))
    careful = await stack.enter_async_context(NatsServer(folder / "nats-always", sync_always=True))
    return {
        "SQLite": await stack.enter_async_context(open_dynlog(f"sqlite://{folder}/kv.db")),
        "Redis, always": await stack.enter_async_context(open_dynlog(redis["always"].url)),
        "Redis, everysec": await stack.enter_async_context(open_dynlog(redis["everysec"].url)),
        "etcd": await stack.enter_async_context(open_etcd(etcd.port)),
        "NATS, always": await stack.enter_async_context(open_nats(careful.url)),
        "NATS": await stack.enter_async_context(open_nats(nats.url)),
    }


Work = Callable[[Store], Awaitable[float]]


async def _medians(stores: Mapping[str, Store], rounds: int, work: Work) -> Mapping[str, float]:
    found: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(rounds):
        for name in random.sample(list(stores), len(stores)):
            found[name].append(await work(stores[name]))
    return {name: median(rates) for name, rates in found.items()}


def _rows(name: str, unit: str, found: Mapping[str, float]) -> list[Row]:
    """One row for each of ours beside each peer of its durability."""
    return [
        Row(
            f"{name}: {ours}", value, unit, found[peer], ">= 1x",
            f"{DURABILITY[ours]} when acknowledged; peer: {peer}",
        )
        for ours, value in found.items() if ours not in PEERS
        for peer in found if peer in PEERS and DURABILITY[peer] == DURABILITY[ours]
    ]  # fmt: skip


def _puts(count: int, tasks: int) -> Work:
    value = os.urandom(SIZE)
    return lambda store: _at_once(count, tasks, lambda key: store.put(key, value))


def _gets(count: int, tasks: int) -> Work:
    return lambda store: _at_once(count, tasks, store.get)


def _latest(count: int, tasks: int) -> Work:
    return lambda store: _at_once(count, tasks, store.get_latest)


def _watched(count: int, watchers: int) -> Work:
    """So many changes, `MANY` in flight, until every watcher has seen all of them."""
    value = os.urandom(SIZE)

    async def work(store: Store) -> float:
        prefix = f"w{time.monotonic_ns()}"
        ready = [asyncio.Event() for _ in range(watchers)]
        async with asyncio.TaskGroup() as group:
            for one in ready:
                group.create_task(store.watch(prefix, count, one))
            for one in ready:
                await one.wait()
            start = time.perf_counter()
            await _at_once(count, MANY, lambda key: store.put(f"{prefix}.{key}", value))
        return count * watchers / (time.perf_counter() - start)

    return work


async def _at_once(count: int, tasks: int, what: Callable[[str], Awaitable[object]]) -> float:
    """Calls a second; each of so many tasks makes one call after another, on keys in turn."""
    each = count // tasks

    async def one(number: int) -> None:
        for turn in range(each):
            await what(f"k.{(number * each + turn) % KEYS}")

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(one(number))
    return each * tasks / (time.perf_counter() - start)
