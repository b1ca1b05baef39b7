"""The same events give the same router, byte for byte, on every engine, and from a snapshot in every store."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

import dynlog
from dynlog import SnapshotPolicy
from dynlog.kvevents import KvEvent, encode_events
from dynlog.record import Mark
from dynlog.router.dump import dump_events
from dynlog.router.fold import apply_event
from dynlog.router.index import KvIndex
from dynlog.router.state import RouterState
from tests.router.fleet import TOPIC, fleet, publish

EVERYWHERE = pytest.mark.dynlog_engines("memory", "sqlite", "redis", "kafka")
ALL_STORES = pytest.mark.dynlog_stores("memory", "file", "s3")
MANUAL = SnapshotPolicy(every_records=None, every_bytes=None, every_s=None)
EVENTS, BEFORE = 400, 250


@cache
def events() -> Sequence[KvEvent]:
    return fleet(11, steps=EVENTS)


@cache
def expected() -> str:
    """The dump of a fold that never saw a log."""
    index = KvIndex()
    for event in events():
        apply_event(index, event)
    return json.dumps(list(dump_events(index)))


@EVERYWHERE
@ALL_STORES
async def test_a_router_comes_back_from_snapshot_and_log_byte_for_byte(
    dynlog_log_url: str, dynlog_objects_url: str
) -> None:
    async with dynlog.open_log(dynlog_log_url) as log, dynlog.open_objects(dynlog_objects_url) as objects:
        await log.create_topic(TOPIC, partitions=3)
        await publish(log, events()[:BEFORE])
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            await router.snapshot()
        await publish(log, events()[BEFORE:])
        async with RouterState.open(log, TOPIC, objects=objects, policy=MANUAL) as router:
            await router.ready()
            report = router.status().rebuild
            assert report is not None
            assert report.started_from.startswith("snapshot")
            assert report.records == EVENTS - BEFORE
            assert json.dumps(list(router.dump())) == expected()
        async with RouterState.open(log, TOPIC) as router:
            await router.ready()
            assert json.dumps(list(router.dump())) == expected()


@EVERYWHERE
async def test_a_redelivered_append_changes_nothing_for_a_router(dynlog_log_url: str) -> None:
    async with dynlog.open_log(dynlog_log_url) as log:
        await log.create_topic(TOPIC)
        epoch = await log.register_producer("fleet")
        marked = [encode_events([event], mark=Mark("fleet", epoch, n)) for n, event in enumerate(events())]
        for _ in range(2):  # the same marks twice, as after an acknowledgement that was lost
            for start in range(0, len(marked), 50):
                await log.append(TOPIC, 0, marked[start : start + 50])
        async with RouterState.open(log, TOPIC) as router:
            await router.ready()
            assert json.dumps(list(router.dump())) == expected()


@pytest.mark.dynlog_engines("redis", "kafka")
@pytest.mark.dynlog_stores("s3")
async def test_the_demo_runs_on_real_engines(dynlog_log_url: str, dynlog_objects_url: str, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("dynlog")
    process = await asyncio.create_subprocess_exec(
        command, "demo", "--log", dynlog_log_url, "--objects", dynlog_objects_url, "--json",
        cwd=tmp_path, env=os.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(100):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    assert json.loads(out)["same"] is True, out
