"""When a snapshot is written, with a store that fails."""

from __future__ import annotations

import asyncio

from dynlog import SnapshotPolicy, Snapshots
from dynlog.errors import ObjectStoreUnavailable
from dynlog.log import Log
from dynlog.manifests import Manifest
from dynlog.objects import ObjectStore
from dynlog.open import open_log, open_objects
from dynlog.snapshot_writer import Picture, SnapshotWriter
from dynlog.timing import SYSTEM_CLOCK


class FailsOnce(Snapshots):
    """Snapshots into a store that is away for the first of them."""

    def __init__(self, log: Log, objects: ObjectStore) -> None:
        super().__init__(log, "t", objects, "tally")
        self.failed = False
        self.there = asyncio.Event()

    async def write(self, *args: object) -> Manifest:
        if not self.failed:
            self.failed = True
            raise ObjectStoreUnavailable("away", store="objects", key="k")
        manifest = await super().write(*args)  # type: ignore[arg-type]
        self.there.set()
        return manifest


async def test_a_snapshot_that_failed_is_written_at_the_next_occasion_although_nothing_came_since() -> None:
    async with open_log("memory://") as log, open_objects("memory://") as objects:
        await log.create_topic("t")
        position = await log.position("t", 0)

        async def take() -> Picture:
            return Picture({0: iter([b"x"])}, "s", {0: position})

        snapshots = FailsOnce(log, objects)
        policy = SnapshotPolicy(every_records=10, every_s=0.05)
        writer = SnapshotWriter(snapshots, policy, take, SYSTEM_CLOCK)
        running = asyncio.create_task(writer.run())
        writer.note(10, 1)
        async with asyncio.timeout(10):
            await snapshots.there.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert writer.failures == 1
