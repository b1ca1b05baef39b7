"""A group goes on in the log where its consumer stood in NATS: nothing is skipped, and what was done stays done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StreamSource

from dynlog.adapters.nats.streams import list_consumers
from dynlog.batch import Position
from dynlog.consumer import Consumer
from dynlog.log import Log
from dynlog.migrations.mirror.path import topic_place
from dynlog.migrations.nats.contract import Choices
from dynlog.migrations.nats.origin import last_sequences, offset_behind
from dynlog.migrations.nats.streams import StreamMover
from dynlog.record import Mark, Record
from tests.migrate_streams.source import Migration, Source


def migration(source: Source, log: Log, **choices: object) -> Migration:
    return Migration(StreamMover(), source.server, log, Choices(**choices))  # type: ignore[arg-type]


async def work(source: Source, stream: str, durable: str, acked: Sequence[int], fetched: int, **config: object) -> None:
    """A consumer that fetched so many and acknowledged those (by sequence)."""
    await source.js.add_consumer(stream, ConsumerConfig(durable_name=durable, ack_wait=600, **config))  # type: ignore[arg-type]
    subscription = await source.js.pull_subscribe_bind(durable, stream)
    got = 0
    while got < fetched:
        for message in await subscription.fetch(fetched - got, timeout=5):
            got += 1
            if message.metadata.sequence.stream in acked:
                await message.ack_sync()
    await subscription.unsubscribe()


async def next_of(log: Log, topic: str, group: str) -> list[bytes]:
    """What the group would be handed from its position on."""
    info = await log.topic(topic)
    found: list[bytes] = []
    for partition, offset in sorted((await log.committed(group, topic)).positions.items()):
        position = Position(topic, info.incarnation, partition, offset)
        batch = await log.read(position)
        found += [bytes(parts[0]) for parts in batch.bodies]
    return found


@pytest.mark.dynlog_engines("memory", "sqlite", "redis", "kafka")
async def test_a_group_goes_on_exactly_where_its_consumer_stood(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 10)
    await work(source, "S", "began", range(1, 5), 4)
    await work(source, "S", "fresh", (), 0)
    await work(source, "S", "done", range(1, 11), 10)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    assert await next_of(dynlog_log, "S", "began") == [b"s %d" % n for n in range(5, 11)]
    assert await next_of(dynlog_log, "S", "fresh") == [b"s %d" % n for n in range(1, 11)]
    assert await next_of(dynlog_log, "S", "done") == []
    assert await moving.verify(item) == []


async def test_a_consumer_of_the_log_is_handed_the_next_message(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 6)
    await work(source, "S", "workers", (1, 2, 3), 3)
    moving = migration(source, dynlog_log)
    await moving.apply(await moving.planned("S"))
    got: list[bytes] = []
    async with Consumer.open(dynlog_log, "S", group="workers") as consumer:
        while len(got) < 3:
            delivery = await consumer.next(wait=20)
            assert delivery is not None
            got.append(b"".join(map(bytes, delivery.record.parts)))
            await delivery.ack()
    assert got == [b"s 4", b"s 5", b"s 6"]


async def test_what_was_acknowledged_out_of_turn_comes_again_and_the_plan_says_so(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s")
    await source.fill("s", 6)
    await work(source, "S", "w", (1, 3, 4), 5)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    assert await next_of(dynlog_log, "S", "w") == [b"s %d" % n for n in range(2, 7)]
    assert "consumer w -> group w, behind sequence 1, 1 waiting" in item.notes
    assert any("2 messages up to 5 are delivered and not acknowledged" in note for note in item.notes)


async def test_a_consumer_that_wanted_only_what_is_new_does_not_get_what_is_old(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s")
    await source.fill("s", 5)
    await work(source, "S", "w", (), 0, deliver_policy=DeliverPolicy.NEW)
    await source.fill("s", 2, start=6)
    moving = migration(source, dynlog_log)
    await moving.apply(await moving.planned("S"))
    assert await next_of(dynlog_log, "S", "w") == [b"s 6", b"s 7"]


async def test_a_consumer_without_acknowledgements_goes_on_behind_what_it_was_given(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s")
    await source.fill("s", 5)
    await work(source, "S", "w", (), 3, ack_policy=AckPolicy.NONE)
    moving = migration(source, dynlog_log)
    await moving.apply(await moving.planned("S"))
    assert await next_of(dynlog_log, "S", "w") == [b"s 4", b"s 5"]


async def test_a_work_queue_whose_done_work_is_gone_goes_on_with_what_is_left(source: Source, dynlog_log: Log) -> None:
    await source.stream("Q", "q", retention=RetentionPolicy.WORK_QUEUE)
    await source.fill("q", 8)
    await work(source, "Q", "prefill", (1, 2, 3), 3)
    moving = migration(source, dynlog_log)
    item = await moving.planned("Q")
    await moving.apply(item)
    assert await next_of(dynlog_log, "Q", "prefill") == [b"q %d" % n for n in range(4, 9)]
    assert any("retention workqueue" in note for note in item.notes)


async def test_a_consumer_that_filters_becomes_a_group_that_is_told_to_skip(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s.>")
    for number in range(6):
        await source.js.publish(f"s.{'ab'[number % 2]}", b"%d" % number)
    await work(source, "S", "only-b", (2,), 1, filter_subject="s.b")
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    assert any("must skip all but s.b" in note for note in item.notes)
    assert (await next_of(dynlog_log, "S", "only-b"))[0] == b"2"


async def test_ephemeral_consumers_become_no_group_and_are_named(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 1)
    await source.js.add_consumer(
        "S", ConsumerConfig(name="passing", ack_policy=AckPolicy.EXPLICIT, inactive_threshold=60)
    )
    item = await migration(source, dynlog_log).planned("S")
    assert "consumer passing is ephemeral and becomes no group" in item.notes


async def test_consumers_that_would_be_mistaken_for_each_other_are_refused_by_name(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s")
    await source.fill("s", 3)
    for name in ("w_1", "w-1", "x"):
        await work(source, "S", name, (1,), 1)
    moving = migration(source, dynlog_log)
    outcome = await moving.apply(await moving.planned("S"))
    assert [refusal.name for refusal in outcome.refused] == ["S consumer w-1", "S consumer w_1"]
    assert await next_of(dynlog_log, "S", "x") == [b"s 2", b"s 3"]


async def test_a_group_moves_on_with_its_consumer_and_never_back(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 8)
    await work(source, "S", "w", (1, 2), 2)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    subscription = await source.js.pull_subscribe_bind("w", "S")
    for message in await subscription.fetch(2, timeout=5):
        await message.ack_sync()
    assert [difference.name for difference in await moving.verify(item)] == ["S consumer w"]
    await moving.apply(item)
    assert (await next_of(dynlog_log, "S", "w"))[0] == b"s 5"

    generation = await dynlog_log.open_generation("w", "S")
    await dynlog_log.commit("w", "S", {0: 7}, generation=generation)
    await moving.apply(item)

    assert await next_of(dynlog_log, "S", "w") == [b"s 8"]
    assert (await dynlog_log.committed("w", "S")).generation == generation
    assert await moving.verify(item) == []


async def test_positions_hold_in_every_partition(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s.>")
    for number in range(1, 31):
        await source.js.publish(f"s.{number % 6}", b"%d" % number)
    await work(source, "S", "w", range(1, 12), 11)
    moving = migration(source, dynlog_log, partition_by="subject", partitions=3)
    item = await moving.planned("S")
    await moving.apply(item)
    assert sorted(int(body) for body in await next_of(dynlog_log, "S", "w")) == list(range(12, 31))
    assert await moving.verify(item) == []


async def test_an_offset_is_found_among_records_of_others(dynlog_log: Log) -> None:
    topic = await dynlog_log.create_topic("t")
    for sequence in (3, 4, 9, 12):
        await dynlog_log.append("t", 0, [Record(parts=(b"other",))] * 3)
        await dynlog_log.append("t", 0, [Record(parts=(b"own",), mark=Mark("nats:p", 0, sequence))])
    await dynlog_log.append("t", 0, [Record(parts=(b"other",))] * 40)
    start = Position("t", topic.incarnation, 0, 0)
    offsets = {sequence: 4 * index + 3 for index, sequence in enumerate((3, 4, 9, 12))}
    for floor, following in ((0, 3), (3, 4), (4, 9), (8, 9), (9, 12)):
        found = await offset_behind(dynlog_log, start, "p", floor)
        assert offsets.get(floor, -1) < found <= offsets[following], floor
    assert await offset_behind(dynlog_log, start, "p", 12) > offsets[12]
    assert await last_sequences(dynlog_log, "t", "p") == {0: 12}
    assert await last_sequences(dynlog_log, "t", "q") == {}


async def test_a_message_that_a_mirror_brought_out_of_the_topic_does_not_come_back(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s")
    await source.fill("s", 2)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    place = topic_place(await dynlog_log.topic("S"))
    await source.js.publish("s", b"back", headers={"dynlog-mirror": place})
    await source.js.publish("s", b"new", headers={"dynlog-mirror": "topic:else@1"})
    assert (await moving.apply(item)).moved == 1
    batch = await dynlog_log.read(await dynlog_log.position("S", 0))
    assert [bytes(parts[0]) for parts in batch.bodies] == [b"s 1", b"s 2", b"new"]
    assert batch.columns.headers is not None
    path = batch.columns.headers[2]["dynlog-mirror"].decode()
    assert path.startswith("topic:else@1,stream:S@")
    assert await moving.verify(item) == []


async def test_the_servers_own_consumers_that_fill_another_stream_become_no_group(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s", retention=RetentionPolicy.WORK_QUEUE)
    await source.js.add_consumer("S", ConsumerConfig(durable_name="mine", filter_subject="nothing"))
    await source.js.add_stream(name="T", sources=[StreamSource(name="S", filter_subject="s")])
    async with asyncio.timeout(20):
        while not (theirs := [c for c in await list_consumers(source.server, "S") if c.config.get("sourcing")]):
            pass
    item = await migration(source, dynlog_log).planned("S")
    assert item.settings["groups"] == ["mine"]
    assert any(note.startswith(f"consumer {theirs[0].name} is the server's own") for note in item.notes)
