"""(h) Snapshot and restore of a router, and the longest wait of any other task on the event loop meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
import time

import dynlog
from benchmarks.rebuild import TOPIC, write
from benchmarks.report import Row
from benchmarks.workloads import WORKLOADS, records_of
from dynlog.heap import settle_heap
from dynlog.router.state import RouterState
from dynlog.snapshots import SnapshotPolicy

MANUAL = SnapshotPolicy(every_records=None, every_bytes=None, every_s=None)


class LoopWatch:
    """The longest that a task waited for the loop, beyond what it asked for."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - begun - 0.001)

    def take(self) -> float:
        """The worst since the last call, in milliseconds."""
        worst, self.worst = self.worst, 0.0
        return worst * 1000


async def measure(folder: str, name: str) -> list[Row]:
    workload = next(w for w in WORKLOADS if w.name == name)
    url = f"sqlite://{folder}/{name}.db"
    await write(url, records_of(workload.events()))
    settle_heap()
    watch = LoopWatch()
    rows = []

    def row(what: str, seconds: float, note: str) -> None:
        rows.append(Row(f"{what} {name}", seconds * 1000, "ms", note=note))
        rows.append(Row(f"longest wait, {what} {name}", watch.take(), "ms", required="<= 20"))

    async with dynlog.open_log(url) as log, dynlog.open_objects(f"file://{folder}/objects") as objects:
        watching = asyncio.create_task(watch.run())
        for what in ("rebuild from offset 0", "rebuild from snapshot"):
            begun = time.perf_counter()
            async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
                await router.ready()
                held = router.index.blocks_held
                row(what, time.perf_counter() - begun, f"{held} blocks")
                if what == "rebuild from offset 0":
                    begun = time.perf_counter()
                    manifest = await router.snapshot()
                    row("snapshot", time.perf_counter() - begun, f"{manifest.size} bytes, read back and verified")
        watching.cancel()
    return rows


def run(quick: bool) -> list[Row]:
    """Rows for the smallest and the biggest workload."""
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return [row for name in ("A",) if quick for row in asyncio.run(measure(folder, name))] or [
            row for name in ("A", "D") for row in asyncio.run(measure(folder, name))
        ]
