"""The whole way: what Dynamo left on NATS goes into a log, and the router that comes back from it is Dynamo's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import dynlog
from dynlog.adapters.dynamo_json import decode_line, kv_event
from dynlog.kvevents import KvEvent, encode_events
from dynlog.migrations.radix_snapshot import decode_radix_snapshot
from dynlog.router.state import RouterState
from tests.migrations.dynamo_sample import Sample, dynamos_own_dump, held_blocks

TOPIC = "kv-events"
BLOCKS = 10_519


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty log of each engine."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def events(sample: Sample) -> list[KvEvent]:
    """Snapshot, then tail, as a migration hands them on."""
    return [*decode_radix_snapshot(sample.snapshot), *(decode_line(message) for _, message in sample.tail)]


async def rebuild(url: str, events: Iterable[KvEvent]) -> list[dict[str, Any]]:
    """The dump of a router that knows nothing but a log with these events."""
    async with dynlog.open_log(url) as log:
        await log.create_topic(TOPIC, partitions=2)
        async with dynlog.Producer(log, TOPIC) as producer:
            for event in events:
                await producer.submit(encode_events([event]))
        async with RouterState.open(log, TOPIC) as router:
            await router.ready()
            return list(router.dump())


async def test_the_router_rebuilt_from_snapshot_and_tail_dumps_what_dynamos_router_dumped(
    url: str, events: list[KvEvent]
) -> None:
    dump = await rebuild(url, events)
    assert sum(len(line["event"]["data"]["stored"]["blocks"]) for line in dump) == BLOCKS
    assert held_blocks(dump) == held_blocks(dynamos_own_dump())


async def test_the_dump_is_byte_for_byte_that_of_a_router_that_was_given_dynamos_dump(events: list[KvEvent]) -> None:
    ours = await rebuild("memory://", events)
    theirs = await rebuild("memory://", [kv_event(line) for line in dynamos_own_dump()])
    assert json.dumps(ours) == json.dumps(theirs)


async def test_events_that_stand_both_in_the_snapshot_and_in_the_tail_change_nothing(
    sample: Sample, events: list[KvEvent]
) -> None:
    # The stream is purged before the snapshot is uploaded, so a router may see the tail's beginning twice.
    tail = [decode_line(message) for _, message in sample.tail]
    assert held_blocks(await rebuild("memory://", [*events, *tail])) == held_blocks(dynamos_own_dump())
