"""No task beside a `RouterState` waits long for the event loop: 20 ms are promised, ten times as much is refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import dynlog
from dynlog import Log, Producer, SnapshotPolicy
from dynlog.kvevents import Kind, KvEvent, encode_events, pack_hashes
from dynlog.router.state import RouterState

TOPIC = "kv-events"
MANUAL = SnapshotPolicy(every_records=None, every_bytes=None, every_s=None)
PROMISED_S = 0.020
WORKERS, CHAINS, LENGTH = 8, 1_000, 25


class Watch:
    """How much processor time the loop's thread spent while a task waited for its turn; other programs do not count."""

    def __init__(self) -> None:
        self.most_s = 0.0

    async def run(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.001)
            self.most_s = max(self.most_s, time.thread_time() - begun)


@asynccontextmanager
async def watched() -> AsyncIterator[Watch]:
    watch = Watch()
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def stored(worker: int) -> list[KvEvent]:
    """Chains that have nothing in common, all of one worker: the most runs that so many blocks can be."""
    numbers = count(worker << 40)
    chains = [pack_hashes(next(numbers) for _ in range(LENGTH)) for _ in range(CHAINS)]
    return [KvEvent(worker, Kind.STORED, chain, chain, None, event_id=at) for at, chain in enumerate(chains)]


async def publish(log: Log, events: Iterable[KvEvent]) -> None:
    async with Producer(log, TOPIC) as producer:
        for event in events:
            await producer.submit(encode_events([event]))
        await producer.flush()


async def test_no_task_waits_long_while_a_router_rebuilds_follows_snapshots_restores_and_clears(tmp_path: Path) -> None:
    async with (
        dynlog.open_log(f"sqlite://{tmp_path}/events.db") as log,
        dynlog.open_objects(f"file://{tmp_path}/objects") as objects,
    ):
        await log.create_topic(TOPIC)
        await publish(log, [event for worker in range(1, WORKERS) for event in stored(worker)])
        waits: dict[str, float] = {}
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            async with watched() as watch:
                await router.ready()
            waits["rebuild"] = watch.most_s
            async with watched() as watch:
                await asyncio.gather(publish(log, stored(WORKERS)), router.snapshot())
                await router.caught_up()
            waits["follow and snapshot"] = watch.most_s
            assert router.index.blocks_held == WORKERS * CHAINS * LENGTH
            cleared = [KvEvent(worker, Kind.CLEARED, event_id=CHAINS) for worker in range(1, WORKERS + 1)]
            async with watched() as watch:
                await publish(log, cleared)
                await router.caught_up()
            waits["clear"] = watch.most_s
            assert router.index.blocks_held == 0
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            async with watched() as watch:
                await router.ready()
            report = router.status().rebuild
            assert report is not None
            assert report.started_from.startswith("snapshot")
            waits["restore"] = watch.most_s
    print({what: f"{wait * 1000:.1f} ms" for what, wait in waits.items()})
    assert max(waits.values()) < 10 * PROMISED_S, waits
