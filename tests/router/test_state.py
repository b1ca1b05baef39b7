"""`RouterState`: what a service that embeds it relies on."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import dynlog
from dynlog import Log, ObjectStore, Retention, SnapshotPolicy
from dynlog.errors import StateUnrecoverable, TopicNotFound
from dynlog.kvevents import Kind
from dynlog.router.state import RouterState
from dynlog.timing import ManualClock
from tests.router.fleet import TOPIC, blocks_of, fleet, fold, publish

MANUAL = SnapshotPolicy(every_records=None, every_bytes=None, every_s=None)


@asynccontextmanager
async def places(folder: Path) -> AsyncIterator[tuple[Log, ObjectStore]]:
    async with (
        dynlog.open_log(f"sqlite://{folder}/events.db") as log,
        dynlog.open_objects(f"file://{folder}/objects") as objects,
    ):
        await log.create_topic(TOPIC, partitions=3, exist_ok=True)
        yield log, objects


async def test_the_state_equals_an_independent_fold_however_it_came_to_be(tmp_path: Path) -> None:
    events = fleet(1)
    async with places(tmp_path) as (log, objects):
        await publish(log, events[:250])
        dumps = []
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            assert set(blocks_of(router.dump())) == fold(events[:250])
            await router.snapshot()
            await publish(log, events[250:])
            await router.caught_up()
            dumps.append(json.dumps(list(router.dump())))
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            report = router.status().rebuild
            assert report is not None
            assert report.started_from.startswith("snapshot")
            assert report.records == 150
            dumps.append(json.dumps(list(router.dump())))
        async with RouterState.open(log, TOPIC) as router:
            await router.ready()
            dumps.append(json.dumps(list(router.dump())))
            assert set(blocks_of(router.dump())) == fold(events)
    assert dumps[0] == dumps[1] == dumps[2]


async def test_a_worker_that_was_removed_is_not_resurrected_by_a_rebuild(tmp_path: Path) -> None:
    events = [event for event in fleet(2, steps=200) if event.kind in (Kind.STORED, Kind.REMOVED)]
    async with places(tmp_path) as (log, objects):
        await publish(log, events)
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            assert 2 in {worker for worker, _ in router.workers()}
            await router.snapshot()
            await router.remove_worker(2)
            await router.caught_up()
            assert 2 not in {worker for worker, _ in router.workers()}
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            assert 2 not in {worker for worker, _ in router.workers()}


async def test_a_topic_that_does_not_exist_is_named(tmp_path: Path) -> None:
    async with places(tmp_path) as (log, _):
        with pytest.raises(TopicNotFound, match="nothing"):
            async with RouterState.open(log, "nothing"):
                pass


async def test_retention_that_races_a_cold_router_ends_in_the_right_state_or_is_said(tmp_path: Path) -> None:
    clock = ManualClock()
    events = fleet(3, steps=600)
    async with (
        dynlog.open_log(f"sqlite://{tmp_path}/events.db", clock=clock) as log,
        dynlog.open_objects(f"file://{tmp_path}/objects", clock=clock) as objects,
    ):
        await log.create_topic(TOPIC, partitions=3, retention=Retention(max_age_s=3600))
        policy = SnapshotPolicy(every_records=None, every_bytes=None, every_s=1800)
        right = 0
        for start in range(0, 600, 60):
            await publish(log, events[start : start + 60])
            if start % 120 == 0:
                async with RouterState.open(log, TOPIC, objects=objects, policy=policy, clock=clock) as writer:
                    await writer.ready()
                    await writer.snapshot()
            clock.advance(1800)

            async def truncating() -> None:
                for _ in range(20):
                    await log.enforce_retention(TOPIC)
                    await asyncio.sleep(0)

            racing = asyncio.create_task(truncating())
            async with RouterState.open(log, TOPIC, objects=objects, policy=policy, clock=clock) as router:
                try:
                    await router.ready(timeout=20)
                except StateUnrecoverable:
                    continue
                finally:
                    await racing
                assert set(blocks_of(router.dump())) == fold(events[: start + 60])
                right += 1
        assert right == 10  # the pin of the snapshots is enough
        assert sum(state.earliest for state in await log.partitions(TOPIC)) > 0


async def test_a_router_killed_while_it_snapshots_costs_nothing(tmp_path: Path) -> None:
    rng = random.Random(11)
    events = fleet(4, steps=1200)
    async with places(tmp_path) as (log, objects):
        for start in range(0, 1200, 150):
            await publish(log, events[start : start + 150])
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.router.snapshotting", str(tmp_path), stdout=asyncio.subprocess.PIPE
            )
            assert child.stdout is not None
            for _ in range(rng.randrange(1, 6)):
                assert await asyncio.wait_for(child.stdout.readline(), 30)
            child.kill()
            await child.wait()
            async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
                await router.ready()
                assert set(blocks_of(router.dump())) == fold(events[: start + 150])
                report = router.status().rebuild
                assert report is not None
                assert not report.snapshots_rejected
