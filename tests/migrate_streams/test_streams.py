"""A stream becomes a topic: in order, each message once, with all that NATS knew of it."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from dynlog.adapters.nats.streams import StreamMessage, read_stream, stream_info
from dynlog.batch import StoredRecord
from dynlog.dedupe import DedupeTable
from dynlog.errors import ConfigurationError, SourceChanged, TopicNotFound
from dynlog.log import Log
from dynlog.migrations.mirror.choice import Choice, settle
from dynlog.migrations.mirror.inbound import SUBJECT, source_of, to_record
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.nats.contract import Choices
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.origin import record_of
from dynlog.migrations.nats.streams import StreamMover
from dynlog.open import open_log
from dynlog.record import Record
from tests.migrate_streams.source import MIGRATION, Migration, Source, stopped_anywhere


def migration(source: Source, log: Log, **choices: object) -> Migration:
    return Migration(StreamMover(), source.server, log, Choices(**choices))  # type: ignore[arg-type]


async def records_of(log: Log, topic: str) -> list[StoredRecord]:
    """What a reader gets, partition by partition."""
    found: list[StoredRecord] = []
    for partition in range((await log.topic(topic)).partitions):
        table = DedupeTable()
        position = await log.position(topic, partition)
        while True:
            batch = await log.read(position)
            found += list(table.filter(batch))
            position = batch.next_position
            if batch.next_offset >= batch.end_offset:
                break
    return found


def body(stored: StoredRecord) -> bytes:
    return b"".join(map(bytes, stored.record.parts))


def sequence(stored: StoredRecord) -> int:
    origin = source_of(stored.record.headers)
    assert origin is not None
    return origin.sequence


async def test_a_message_keeps_its_subject_headers_time_and_place(source: Source, dynlog_log: Log) -> None:
    await source.stream("ORDERS", "orders.>")
    await source.js.publish("orders.new", b"one", headers={"Kind": "first", "Nats-Msg-Id": "a-1"})
    await source.js.publish("orders.old", b"")
    moving = migration(source, dynlog_log)
    item = await moving.planned("ORDERS")
    assert (item.target, item.count, item.refused) == ("ORDERS", 2, ())

    outcome = await moving.apply(item)

    assert (outcome.moved, outcome.already, outcome.refused) == (2, 0, ())
    first, second = await records_of(dynlog_log, "ORDERS")
    raw = await source.js.get_msg("ORDERS", 1)
    assert (first.record.key, body(first), first.record.headers[SUBJECT]) == (b"orders.new", b"one", b"orders.new")
    assert (first.record.headers["Kind"], first.record.headers["Nats-Msg-Id"]) == (b"first", b"a-1")
    assert (second.record.key, body(second)) == (b"orders.old", b"")
    origin = source_of(first.record.headers)
    assert origin is not None
    assert origin.place.startswith("stream:ORDERS@")
    assert raw.time is not None
    assert first.record.timestamp_ms == origin.time_ns // 1_000_000 == int(raw.time.timestamp() * 1000)
    assert [sequence(first), sequence(second)] == [1, 2]
    assert await moving.verify(item) == []


async def test_several_values_of_one_header_stay_apart(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    block = b"NATS/1.0\r\nTag: one\r\nTag: two, three\r\n\r\n"
    await source.raw(b"HPUB s %d %d\r\n%bhi\r\n" % (len(block), len(block) + 2, block))
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    (stored,) = await records_of(dynlog_log, "S")
    assert stored.record.headers["Tag"] == b"one\ntwo, three"
    assert await moving.verify(item) == []


async def test_a_plan_and_a_whole_migration_change_nothing_on_the_source(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 20)
    await source.js.subscribe("s", durable="worker", manual_ack=True)
    before = await source.picture()
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    await moving.verify(item)
    await moving.rollback(item)
    assert await source.picture() == before


@pytest.mark.dynlog_engines("memory", "sqlite", "redis", "kafka")
async def test_a_second_run_moves_only_what_came_since(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s.>")
    await source.fill("s.a", 30)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    assert (await moving.apply(item)).moved == 30
    await source.fill("s.b", 5)

    second = await moving.apply(item)
    third = await moving.apply(item)

    assert (second.moved, second.already, third.moved, third.already) == (5, 30, 0, 35)
    assert [sequence(stored) for stored in await records_of(dynlog_log, "S")] == list(range(1, 36))
    assert await moving.verify(item) == []


async def test_an_apply_that_is_cancelled_anywhere_goes_on_and_doubles_nothing(
    source: Source, dynlog_log: Log, dice: random.Random
) -> None:
    await source.stream("S", "s")
    body_of = b"x" * 50_000
    for number in range(120):
        await source.js.publish("s", b"%d %b" % (number, body_of))
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    ends = await stopped_anywhere(moving, item, dice)
    assert any(0 < end < 120 for end in ends), "no apply was stopped in the middle"

    await moving.apply(item)

    found = await records_of(dynlog_log, "S")
    assert [int(body(stored).split()[0]) for stored in found] == list(range(120))
    assert await moving.verify(item) == []


async def test_an_apply_without_its_journal_still_doubles_nothing(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 10)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    await dynlog_log.delete_topic("dynlog.migration")
    again = await moving.apply(item)
    assert (again.moved, again.already) == (0, 10)
    assert len(await records_of(dynlog_log, "S")) == 10


async def test_gaps_in_a_stream_are_gaps_and_nothing_else(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 12)
    for gone in (1, 2, 5, 6, 7, 12):
        await source.js.delete_msg("S", gone)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    assert [sequence(stored) for stored in await records_of(dynlog_log, "S")] == [3, 4, 8, 9, 10, 11]
    assert await moving.verify(item) == []


async def test_a_subjects_messages_stay_together_and_in_order_in_a_partition(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s.>")
    for number in range(60):
        await source.js.publish(f"s.{number % 7}.{number % 3}", b"%d" % number)
    moving = migration(source, dynlog_log, partition_by="token:2", partitions=4)
    item = await moving.planned("S")
    await moving.apply(item)
    await source.fill("s.3.0", 3)
    await moving.apply(item)

    places: defaultdict[bytes, set[int]] = defaultdict(set)
    found = await records_of(dynlog_log, "S")
    for stored in found:
        places[stored.record.headers[SUBJECT].split(b".")[1]].add(stored.partition)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len({stored.partition for stored in found}) > 1
    for partition in range(4):
        mine = [sequence(stored) for stored in found if stored.partition == partition]
        assert mine == sorted(mine)
    assert sorted(map(sequence, found)) == list(range(1, 64))
    assert await moving.verify(item) == []


@pytest.mark.parametrize(
    ("by", "partitions"), [("subjects", 2), ("token:0", 2), ("token:x", 2), ("header:", 2), (None, 3), ("subject", 0)]
)
async def test_a_rule_that_nobody_can_mean_is_refused_by_the_plan(
    source: Source, dynlog_log: Log, by: str | None, partitions: int
) -> None:
    with pytest.raises(ConfigurationError, match="partition"):
        await migration(source, dynlog_log, partition_by=by, partitions=partitions).plan()


async def test_streams_that_would_be_mistaken_for_each_other_are_refused_by_name_and_the_rest_goes_on(
    source: Source, dynlog_log: Log
) -> None:
    for name in ("a_b", "a-b", "fine"):
        await source.stream(name, f"{name}.>")
    moving = migration(source, dynlog_log)
    items = {item.source: item for item in (await moving.whole_plan()).items}
    assert {name: item.target for name, item in items.items()} == {"a_b": "", "a-b": "", "fine": "fine"}
    assert "a-b" in items["a_b"].refused[0].why
    assert "a_b" in items["a-b"].refused[0].why
    (alone,) = (await moving.whole_plan(only=["streams:a*"], exclude=["a-b"])).items
    await moving.apply(alone)
    assert (await moving.whole_plan(only=["a-b"], exclude=["a_b"])).moving == []


async def test_a_topic_that_is_anothers_is_not_written_into(source: Source, dynlog_log: Log) -> None:
    await dynlog_log.create_topic("S")
    await dynlog_log.append("S", 0, [Record(parts=(b"mine",))])
    await source.stream("S", "s")
    await source.fill("s", 3)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    with pytest.raises(ConfigurationError, match="holds nothing of this stream"):
        await moving.apply(item)
    assert [body(stored) for stored in await records_of(dynlog_log, "S")] == [b"mine"]


async def test_a_topic_into_which_a_part_of_the_stream_is_mirrored_is_left_to_the_mirror(
    source: Source, dynlog_log: Log
) -> None:
    await source.stream("S", "s.>")
    await source.fill("s.a", 3)
    info = await stream_info(source.server, "S")
    topic = await dynlog_log.create_topic("S")
    await settle(dynlog_log, topic, info, Choice("s.b"))
    refused = await migration(source, dynlog_log).planned("S")
    assert refused.target == ""
    assert "a mirror brings s.b" in refused.refused[0].why


async def test_a_mirrors_topic_is_gone_on_with(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 5)
    info = await stream_info(source.server, "S")
    topic = await dynlog_log.create_topic("S")
    await settle(dynlog_log, topic, info, Choice())
    moving = migration(source, dynlog_log)
    async for message in read_stream(source.server, info, first=1, last=3):
        await dynlog_log.append("S", 0, [to_record(message, stream_place(info))])
    item = await moving.planned("S")
    outcome = await moving.apply(item)
    assert (outcome.moved, outcome.already) == (2, 3)
    assert [sequence(stored) for stored in await records_of(dynlog_log, "S")] == [1, 2, 3, 4, 5]
    assert await moving.verify(item) == []
    assert len(await records_of(dynlog_log, "S")) == 5
    assert (await moving.rollback(item)).moved == 0


async def test_a_stream_that_was_begun_with_another_option_says_which_to_give(
    source: Source, dynlog_log: Log
) -> None:  # fmt: skip
    for name in ("S", "T"):
        await source.stream(name, name.lower())
    spread, plain = migration(source, dynlog_log, partition_by="subject"), migration(source, dynlog_log)
    await spread.apply(await spread.planned("S"))
    await plain.apply(await plain.planned("T"))
    (why,) = [refusal.why for refusal in (await plain.planned("S")).refused]
    assert why.startswith("topic S was begun with --partition-by subject: give that again, or roll")
    (why,) = [refusal.why for refusal in (await spread.planned("T")).refused]
    assert why.startswith("topic T was begun without --partition-by: leave it out, or roll")


async def test_a_stream_that_was_made_anew_is_another(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 3)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    await source.js.delete_stream("S")
    await source.stream("S", "s")
    await source.fill("s", 2)
    with pytest.raises(SourceChanged, match="made anew"):
        await moving.apply(item)
    anew = await moving.planned("S")
    assert anew.target == ""
    assert "roll that migration back" in anew.refused[0].why


@pytest.mark.dynlog_engines("sqlite")
async def test_messages_over_the_logs_limit_are_named_and_the_rest_goes_on(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    largest = source.server.max_payload
    for size in (10, largest, 20, largest - 100, 30):
        await source.js.publish("s", b"x" * size)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    assert [refusal.name for refusal in item.refused] == ["S message 2 (s)", "S message 4 (s)"]

    outcome = await moving.apply(item)

    assert [refusal.name for refusal in outcome.refused] == ["S message 2 (s)", "S message 4 (s)"]
    assert "max_batch_bytes" in outcome.refused[0].why
    assert [sequence(stored) for stored in await records_of(dynlog_log, "S")] == [1, 3, 5]
    assert (await moving.apply(item)).refused == outcome.refused
    assert [difference.name for difference in await moving.verify(item)] == ["S message 2 (s)", "S message 4 (s)"]


async def test_verify_names_what_is_missing_and_what_differs(source: Source, dynlog_log: Log) -> None:
    await source.stream("S", "s")
    await source.fill("s", 10)
    moving = migration(source, dynlog_log)
    item = await moving.planned("S")
    await moving.apply(item)
    good = await records_of(dynlog_log, "S")
    labels = dict((await dynlog_log.topic("S")).labels)
    await dynlog_log.delete_topic("S")
    await dynlog_log.create_topic("S", labels=labels)
    kept = [stored.record for stored in good]
    damaged = Record((b"?",), kept[2].key, kept[2].headers, None, kept[2].timestamp_ms, kept[2].mark)
    await dynlog_log.append("S", 0, [kept[0], damaged, *kept[5:8]])

    differences = {difference.name: difference.what for difference in await moving.verify(item)}

    assert list(differences) == ["S message 2", "S message 3 (s)", "S messages 4 to 5", "S messages 9 to 10"]
    assert differences["S message 3 (s)"] == "differs in parts"


async def test_a_rollback_removes_what_was_made_and_leaves_what_others_wrote(source: Source, dynlog_log: Log) -> None:
    for name in ("S", "T"):
        await source.stream(name, name.lower())
        await source.fill(name.lower(), 4)
    moving = migration(source, dynlog_log)
    ours, shared = [await moving.planned(name) for name in ("S", "T")]
    await moving.apply(ours)
    await moving.apply(shared)
    await dynlog_log.append("T", 0, [Record(parts=(b"a new producer's",))])

    assert (await moving.rollback(ours)).moved == 4
    left = await moving.rollback(shared)

    with pytest.raises(TopicNotFound):
        await dynlog_log.topic("S")
    assert "1 records" in left.refused[0].why
    assert len(await records_of(dynlog_log, "T")) == 5


async def test_a_message_without_headers_becomes_what_the_mirror_makes_of_it(source: Source, dynlog_log: Log) -> None:
    message = StreamMessage(7, "ä.b", None, b"data", 1_700_000_000_123_456_789)
    assert record_of(message, "stream:S@1") == to_record(message, "stream:S@1")


async def test_the_journal_says_while_a_copy_is_under_way_how_far_it_is(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.migrations.nats.stream_copy.JOURNAL_S", 0.0)
    await source.stream("S", "s")
    for _ in range(6):
        await source.js.publish("s", bytes(40_000))
    async with open_log("memory://?max_batch_bytes=100000") as log:
        moving = migration(source, log)
        item = await moving.planned("S")
        await moving.apply(item)
        lines = (await Journal.read(log, MIGRATION)).lines(item.id)
        assert [*lines] == ["1-2", "3-4", "5-6"]
        assert (await moving.apply(item)).already == 6
