"""A bucket of a million keys: how fast it opens from a snapshot and without one, and what a compaction of it costs.

On SQLite and a folder of objects, as one host has it.  The compaction moves all that is still needed to the log's end
and cuts off the rest; meanwhile the bucket is written to and read as ever, and that is timed, too.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.report import Row
from dynlog.kv import Bucket, open_kv
from dynlog.kv.records import Put, to_record
from dynlog.kv.settings import topic_of
from dynlog.log import Log
from dynlog.objects import ObjectStore
from dynlog.open import open_log, open_objects

OPENED, COMPACTED = "opened", "compacted"
SIZE = 100
BATCH = 2_000


def run(quick: bool) -> list[Row]:
    """Opening from offset 0 and from a snapshot, and a compaction."""
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return asyncio.run(_measure(Path(folder), 20_000 if quick else 1_000_000))


async def _measure(folder: Path, keys: int) -> list[Row]:
    async with open_log(f"sqlite://{folder}/kv.db") as log, open_objects(f"file://{folder}/objects") as store:
        return await _open(log, store, keys) + await _compact(log, keys)


async def _open(log: Log, store: ObjectStore, keys: int) -> list[Row]:
    await _filled(log, OPENED, keys)
    async with _opened(log, OPENED, None) as (replayed_s, _):
        pass
    async with _opened(log, OPENED, store) as (_, bucket):
        start = time.perf_counter()
        await bucket.snapshot()
        written_s = time.perf_counter() - start
    async with _opened(log, OPENED, store) as (opened_s, bucket):
        assert len(bucket) == keys
        assert "snapshot" in bucket.status().started_from
    name, said = f"open a bucket of {keys:,} keys from a snapshot", f"{opened_s:.2f} s"
    note = f"{said}; peer: without one, from offset 0, {replayed_s:.2f} s"
    return [
        Row(name, keys / opened_s, "keys/s", keys / replayed_s, ">= 1x", note),
        Row(f"write a snapshot of {keys:,} keys", written_s, "s"),
    ]


async def _compact(log: Log, keys: int) -> list[Row]:
    """Without snapshots: they would keep the log below them for as long as they are needed."""
    for _ in range(2):
        await _filled(log, COMPACTED, keys)
    async with _opened(log, COMPACTED, None) as (_, bucket):
        quiet = await _put_times(bucket, 200)
        before = (await log.partitions(topic_of(COMPACTED)))[0].bytes
        start = time.perf_counter()
        compacting = asyncio.create_task(bucket.compact())
        meanwhile: list[float] = []
        while not compacting.done():
            meanwhile += await _put_times(bucket, 1)
        done = await compacting
        took = time.perf_counter() - start
        assert not done.truncation.blocked_by, done
        after = (await log.partitions(topic_of(COMPACTED)))[0].bytes
    cost = f"{before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after"
    return [
        Row(f"compact {2 * keys:,} records of {keys:,} keys", took, "s", note=cost),
        Row("put while it compacts, median", _at(meanwhile, 0.5), "ms", _at(quiet, 0.5), note="peer: before it"),
        Row("put while it compacts, longest", max(meanwhile), "ms", max(quiet), note="peer: before it"),
    ]


def _at(times: list[float], share: float) -> float:
    return sorted(times)[int(share * (len(times) - 1))]


async def _put_times(bucket: Bucket, count: int) -> list[float]:
    """Milliseconds of puts, one after the other."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        await bucket.put(f"meanwhile.{number}", b"x")
        times.append((time.perf_counter() - start) * 1e3)
    return times


async def _filled(log: Log, name: str, keys: int) -> None:
    """Each key once, in large appends, into a bucket that is made if it is not there."""
    async with open_kv(log, compaction=None) as kv:
        if name not in [info.name for info in await kv.buckets()]:
            await kv.create(name)
    value = os.urandom(SIZE)
    for first in range(0, keys, BATCH):
        puts = [Put(f"v1/key/{number:08}", value) for number in range(first, min(first + BATCH, keys))]
        await log.append(topic_of(name), 0, [to_record(put) for put in puts])


@asynccontextmanager
async def _opened(log: Log, name: str, store: ObjectStore | None) -> AsyncIterator[tuple[float, Bucket]]:
    """(seconds that opening took, the bucket)."""
    async with open_kv(log, store, compaction=None) as kv:
        start = time.perf_counter()
        bucket = await kv.bucket(name)
        yield time.perf_counter() - start, bucket
