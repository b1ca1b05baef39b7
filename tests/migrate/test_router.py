"""A router that is rebuilt from what was moved has what Dynamo's own would have had, whatever happened between."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import dynlog
from dynlog.kvevents import Kind, KvEvent, encode_events, pack_hashes
from dynlog.migrations.nats.contract import Choices
from dynlog.migrations.radix_snapshot import PROFILES
from dynlog.replay import Replayer
from dynlog.router.projection import RouterProjection
from dynlog.router.state import PROJECTION
from dynlog.snapshots import Snapshots
from tests.migrate.migrating import Migrating, bucket, said
from tests.migrate.test_object_faults import Watched
from tests.migrations.dynamo_sample import Held, held_blocks
from tests.migrations.test_radix_snapshot import EVENTS, TIERED, bincode
from tests.nats_source.source import Writer

STREAM = "namespace-demo-component-backend-kv-events"
BUCKET = "namespace-demo-component-backend-radix-bucket"
ITEM = f"router:{STREAM}"


def stored(worker: int, parent: int | None, blocks: list[int]) -> dict[str, Any]:
    """A RouterEvent as Dynamo 0.7.1 publishes it; a block's tokens hash is its own plus 1,000."""
    said = [{"block_hash": block, "tokens_hash": block + 1000} for block in blocks]
    data = {"stored": {"parent_hash": parent, "blocks": said}}
    return {"worker_id": worker, "event": {"event_id": 0, "data": data, "dp_rank": 0}}


def removed(worker: int, blocks: list[int]) -> dict[str, Any]:
    data = {"removed": {"block_hashes": blocks}}
    return {"worker_id": worker, "event": {"event_id": 0, "data": data, "dp_rank": 0}}


def snapshot(*held: tuple[int, int | None, list[int]]) -> bytes:
    """A body of the blocks that workers hold."""
    events = [
        KvEvent(worker, Kind.STORED, pack_hashes(blocks), pack_hashes([block + 1000 for block in blocks]), parent)
        for worker, parent, blocks in held
    ]
    return bincode(events, PROFILES[0])


class Fleet:
    """What Dynamo's workers and routers write."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    async def publish(self, *events: dict[str, Any] | bytes) -> None:
        for event in events:
            data = event if isinstance(event, bytes) else json.dumps(event).encode()
            await self.writer.js.publish(f"{STREAM}.queue", data)

    async def upload(self, body: bytes, *, purged_below: int) -> None:
        """As a router does: purges what all have seen, then puts the snapshot."""
        await self.writer.api(f"STREAM.PURGE.{STREAM}", {"seq": purged_below})
        await (await self.writer.js.object_store(BUCKET)).put("radix-state", body)


@pytest.fixture
async def fleet(writer: Writer) -> Fleet:
    """A component without events yet."""
    await writer.stream(STREAM, subjects=[f"{STREAM}.*"])
    await bucket(writer, BUCKET)
    return Fleet(writer)


async def held(migrating: Migrating, *, snapshots: bool = False) -> set[tuple[int, int]]:
    """Worker and block, of a router that was rebuilt."""
    known = Snapshots(migrating.log, STREAM, migrating.objects, PROJECTION) if snapshots else None
    rebuilt = await Replayer(migrating.log, STREAM, RouterProjection, snapshots=known).rebuild()
    await rebuilt.reader.close()
    assert rebuilt.report.started_from.startswith("snapshot" if snapshots else "offset 0")
    return {(block.worker_id, block.block_hash) for block in blocks_of(rebuilt.state)}


def blocks_of(state: RouterProjection) -> set[Held]:
    from dynlog.router.dump import dump_events

    return held_blocks(dump_events(state.index))


def of(worker: int, *blocks: int) -> Iterator[tuple[int, int]]:
    yield from ((worker, block) for block in blocks)


async def test_snapshot_and_tail_give_the_same_state_from_the_log_alone_and_from_dynlogs_snapshot_on(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.publish(*(stored(1, None, [1]) for _ in range(4)))
    await fleet.upload(snapshot((1, None, [1, 2, 3]), (2, None, [1, 5])), purged_below=4)
    await fleet.publish(stored(1, 3, [4]), removed(2, [5]), stored(3, None, [1]))
    outcome = (await migrating.apply())[ITEM]
    assert (outcome.moved, outcome.refused) == (6, ())
    expected = {*of(1, 1, 2, 3, 4), *of(2, 1), *of(3, 1)}
    assert await held(migrating) == await held(migrating, snapshots=True) == expected
    assert await migrating.differences() == {}


async def test_what_the_stream_got_since_is_added_and_nothing_twice(migrating: Migrating, fleet: Fleet) -> None:
    await fleet.upload(snapshot((1, None, [1])), purged_below=1)
    await fleet.publish(stored(1, 1, [2]))
    await migrating.apply()
    await fleet.publish(stored(1, 2, [3]))
    assert (await migrating.apply())[ITEM].moved == 1
    before = (await migrating.log.partitions(STREAM))[0].end
    assert (await migrating.apply())[ITEM].moved == 0
    assert (await migrating.log.partitions(STREAM))[0].end == before
    assert await held(migrating) == {*of(1, 1, 2, 3)}


async def test_a_source_that_was_purged_past_where_the_migration_stood_is_loaded_anew(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.upload(snapshot((1, None, [1, 2]), (9, None, [7])), purged_below=1)
    await fleet.publish(stored(1, 2, [3]))
    await migrating.apply()
    # While nobody migrates: worker 9 goes, block 3 goes, and both only stand in messages that are purged.
    await fleet.publish(removed(9, [7]), removed(1, [3]), stored(1, 2, [4]))
    await fleet.upload(snapshot((1, None, [1, 2, 4])), purged_below=5)
    await fleet.publish(stored(1, 4, [6]))
    await migrating.apply()
    expected = {*of(1, 1, 2, 4, 6)}
    assert await held(migrating) == await held(migrating, snapshots=True) == expected
    assert await migrating.differences() == {}


async def test_a_source_that_is_purged_between_its_snapshot_and_its_tail_is_loaded_anew_at_once(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.upload(snapshot((1, None, [1, 2]), (9, None, [7])), purged_below=1)
    await fleet.publish(stored(1, 2, [3]), removed(9, [7]))
    pending = [snapshot((1, None, [1, 2, 3]))]

    async def purge(key: str) -> None:
        if key.startswith("snapshots/") and pending:
            await fleet.upload(pending.pop(), purged_below=3)
            await fleet.publish(stored(1, 3, [4]))

    outcome = (await migrating.into(Watched(migrating.objects, before=purge)).apply())[ITEM]
    assert outcome.refused == ()
    expected = {*of(1, 1, 2, 3, 4)}
    assert await held(migrating) == await held(migrating, snapshots=True) == expected
    assert ITEM not in await migrating.differences()  # the bucket's copy is of the snapshot that was


async def test_a_message_that_is_no_event_is_named_with_its_sequence_and_the_rest_goes_on(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.publish(stored(1, None, [1]), b"{", stored(1, 1, [2]))
    outcome = (await migrating.apply())[ITEM]
    assert list(said(outcome.refused)) == [f"{STREAM} sequence 2"]
    assert await held(migrating) == {*of(1, 1, 2)}


@pytest.mark.parametrize("body", [snapshot((1, None, [1, 2]))[:-1], bincode(EVENTS, TIERED)])
async def test_a_snapshot_that_no_release_wrote_moves_no_router_and_everything_else(
    migrating: Migrating, fleet: Fleet, body: bytes
) -> None:
    await fleet.upload(body, purged_below=1)
    await fleet.publish(stored(1, None, [1]))
    plan = await migrating.plan()
    router = next(item for item in plan.items if item.kind == "router")
    assert router.target == ""
    assert "no Dynamo router snapshot of a known release" in router.refused[0].why
    outcomes = await migrating.apply()
    assert list(outcomes) == [f"objects:{BUCKET}"]
    assert await migrating.objects.get_bytes(f"nats/{BUCKET}/radix-state") == body


async def test_a_snapshot_that_breaks_after_the_plan_is_named_and_nothing_is_made_of_it(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.upload(snapshot((1, None, [1, 2])), purged_below=1)
    await migrating.apply()
    await fleet.publish(*(stored(1, 2, [3]) for _ in range(3)))
    await fleet.upload(b"broken", purged_below=4)
    before = await held(migrating)
    # The plan refuses it by itself, so nothing is even begun.
    assert f"router:{STREAM}" not in await migrating.apply()
    assert await held(migrating) == before


async def test_a_topic_that_others_made_is_refused_by_name_and_another_can_be_chosen(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.publish(stored(1, None, [1]))
    await migrating.log.create_topic(STREAM)
    plan = await migrating.plan(only=[STREAM])
    assert [(item.target, item.refused[0].name) for item in plan.items] == [("", STREAM)]
    other = Migrating(migrating.nats, migrating.log, migrating.objects, choices=Choices(topic="kv"))
    assert (await other.apply(only=[STREAM]))[ITEM].moved == 1
    assert (await migrating.log.partitions("kv"))[0].end == 1


async def test_a_rollback_takes_the_topic_and_its_snapshots_unless_others_wrote_into_it(
    migrating: Migrating, fleet: Fleet
) -> None:
    await fleet.upload(snapshot((1, None, [1])), purged_below=1)
    await migrating.apply(only=[STREAM])
    async with dynlog.Producer(migrating.log, STREAM) as producer:
        await producer.send(encode_events([KvEvent(5, Kind.WORKER_REMOVED)]))
    outcome = (await migrating.roll_back())[ITEM]
    assert "others have written to it" in said(outcome.refused)[STREAM]
    assert await held(migrating, snapshots=True) == {*of(1, 1)}
    await migrating.log.delete_topic(STREAM)
    await migrating.roll_back()
    await migrating.apply(only=[STREAM])
    await migrating.roll_back()
    assert STREAM not in {topic.name for topic in await migrating.log.topics()}
    assert f"{STREAM}.snapshots" not in {topic.name for topic in await migrating.log.topics()}


async def test_a_rollback_leaves_the_topic_to_a_router_that_follows_it(migrating: Migrating, fleet: Fleet) -> None:
    await fleet.upload(snapshot((1, None, [1])), purged_below=1)
    await migrating.apply(only=[STREAM])
    following = await Replayer(migrating.log, STREAM, RouterProjection, holder="router-7").rebuild()
    outcome = (await migrating.roll_back())[ITEM]
    assert said(outcome.refused)[STREAM].startswith("router-7 follows it (heard of 0 s ago): it stays; stop that")
    await following.reader.close()
    await migrating.log.release(STREAM, "router-7")
    assert (await migrating.roll_back())[ITEM].refused == ()


async def test_a_stream_without_a_snapshot_gives_what_its_messages_say(migrating: Migrating, fleet: Fleet) -> None:
    await fleet.publish(stored(1, None, [1]), stored(2, None, [1]))
    await migrating.apply()
    assert await held(migrating) == {*of(1, 1), *of(2, 1)}
    assert await migrating.differences() == {}


async def test_an_event_in_the_topic_that_the_source_has_not_is_a_difference(
    migrating: Migrating, fleet: Fleet
) -> None:  # fmt: skip
    await fleet.publish(stored(1, None, [1]))
    await migrating.apply()
    async with dynlog.Producer(migrating.log, STREAM) as producer:
        event = KvEvent(4, Kind.STORED, struct.pack("<Q", 1), struct.pack("<Q", 1001))
        await producer.send(encode_events([event]))
    assert "worker 4 rank 0" in (await migrating.differences())[ITEM]
