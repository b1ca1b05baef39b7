"""Records and messages: what other Kafka clients see of ours, and what we see of theirs."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from dynlog.errors import BatchTooLarge, ConfigurationError, LogDiverged, MalformedRecord, TopicExists, TopicNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Control, Mark, Record
from dynlog.storage.kafka.state import State, pack_state
from dynlog.testing.kinds import RunningServer
from dynlog.topics import Holder, HolderKind, Retention

RESTARTS = 1_000


@asynccontextmanager
async def foreign_producer(broker: RunningServer, transaction: str | None = None) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, transactional_id=transaction)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def admin_client(broker: RunningServer) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def prefix_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


@pytest.fixture
async def log(kafka_url: str) -> AsyncIterator[Log]:
    async with open_log(kafka_url) as log:
        yield log


async def test_another_client_reads_our_records_as_messages(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    await log.create_topic("events")
    await log.append(
        "events",
        0,
        [
            Record(parts=(b"body",), key=b"k", headers={"trace": b"1"}),
            Record(parts=(b"ab", b"c"), mark=Mark("p", 2, 3), timestamp_ms=4, control=Control.END),
        ],
    )
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_server.address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(f"{prefix_of(kafka_url)}.events", 0)])
        plain, full = await consumer.getone(), await consumer.getone()
    finally:
        await consumer.stop()
    assert (plain.key, plain.value, plain.headers) == (b"k", b"body", (("trace", b"1"),))
    assert (full.key, full.value) == (None, b"abc")
    assert dict(full.headers) == {
        "dl.mark": (2).to_bytes(8, "big") + (3).to_bytes(8, "big") + b"p",
        "dl.time": (4).to_bytes(8, "big"),
        "dl.control": bytes([Control.END]),
        "dl.parts": (2).to_bytes(4, "big") + (1).to_bytes(4, "big"),
    }


async def test_a_header_of_the_users_may_be_named_like_one_of_ours(log: Log) -> None:
    await log.create_topic("events")
    given = Record(parts=(b"x",), headers={"dl.mark": b"mine", "dl.h.x": b"2"})
    await log.append("events", 0, [given])
    (item,) = await log.read(await log.position("events", 0))
    assert dict(item.record.headers) == dict(given.headers)
    assert item.record.mark is None


async def test_a_topic_of_others_is_read_as_raw_records_and_can_be_held(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    theirs = f"{prefix_of(kafka_url)}.orders"
    async with admin_client(kafka_server) as admin:
        await admin.create_topics([NewTopic(theirs, 2, 1)])
    async with foreign_producer(kafka_server) as producer:
        await producer.send_and_wait(theirs, b"value", key=b"key", headers=[("h", b"1")], partition=1)
        await producer.send_and_wait(theirs, None, key=b"gone", partition=1)
    (topic,) = await log.topics()
    assert (topic.name, topic.partitions, topic.retention) == ("orders", 2, Retention())
    found = [item.record for item in await log.read(await log.position("orders", 1))]
    assert found == [Record(parts=(b"value",), key=b"key", headers={"h": b"1"}), Record(key=b"gone")]
    with pytest.raises(TopicExists):
        await log.create_topic("orders")
    await log.hold("orders", Holder("h", HolderKind.NAMED, {1: 1}))
    assert (await log.truncate("orders", 1, 2)).blocked_by == ("h",)


async def test_a_message_that_only_looks_like_ours_is_refused_by_its_offset(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    await log.create_topic("events")
    await log.append("events", 0, [Record(parts=(b"ours",))])
    async with foreign_producer(kafka_server) as producer:
        await producer.send_and_wait(f"{prefix_of(kafka_url)}.events", b"x", headers=[("dl.mark", b"short")])
    with pytest.raises(MalformedRecord, match="offset 1"):
        await log.read(await log.position("events", 0, 1))
    assert len(await log.read(await log.position("events", 0, 0), max_records=1)) == 1


async def test_aborted_transactions_and_control_records_are_holes(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    await log.create_topic("events")
    theirs = f"{prefix_of(kafka_url)}.events"
    async with foreign_producer(kafka_server, f"tx-{prefix_of(kafka_url)}") as producer:
        for body, keep in ((b"kept", True), (b"dropped", False), (b"also kept", True)):
            await producer.begin_transaction()
            await producer.send_and_wait(theirs, body)
            await (producer.commit_transaction() if keep else producer.abort_transaction())
    batch = await log.read(await log.position("events", 0))
    while batch.next_offset < batch.end_offset:
        batch = await log.read(batch.next_position)
    position, found = await log.position("events", 0), []
    async with await Reader.open(log, "events") as reader:
        while reader.positions[0].offset < 6:
            if (read := await reader.next(5)) is not None:
                found += [(offset, body[0]) for offset, body in zip(read.offsets, read.bodies, strict=True)]
    assert found == [(0, b"kept"), (4, b"also kept")]
    assert (await log.read(position._replace(offset=2), max_records=1)).offsets[0] == 4
    assert (batch.next_offset, batch.end_offset) == (6, 6)


async def test_a_topic_that_another_tool_made_anew_is_another_incarnation(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    theirs = f"{prefix_of(kafka_url)}.events"
    await log.create_topic("events")
    await log.append("events", 0, [Record(parts=(b"old",))])
    position = await log.position("events", 0)
    waiting = asyncio.create_task(log.read(position._replace(offset=1), wait=20))
    async with admin_client(kafka_server) as admin:
        await admin.delete_topics([theirs])
        await admin.create_topics([NewTopic(theirs, 1, 1)])
        await admin.describe_topics([theirs])
    with pytest.raises(LogDiverged):
        await waiting
    async with foreign_producer(kafka_server) as producer:
        await producer.send_and_wait(theirs, b"new")
    with pytest.raises(LogDiverged):
        await log.read(position)
    assert (await log.topic("events")).incarnation != position.incarnation
    assert [item.record.parts for item in await log.read(await log.position("events", 0))] == [(b"new",)]


async def test_a_topic_with_a_smaller_limit_refuses_what_is_over_it(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    async with admin_client(kafka_server) as admin:
        small = NewTopic(f"{prefix_of(kafka_url)}.small", 1, 1, topic_configs={"max.message.bytes": "1000"})
        await admin.create_topics([small])
    await log.topic("small")
    with pytest.raises(BatchTooLarge, match=re.escape("max.message.bytes")):
        await log.append("small", 0, [Record(parts=(bytes(5000),))])
    assert (await log.append("small", 0, [Record(parts=(b"fits",))])).offsets == (0,)


async def test_compressed_batches_read_back(kafka_url: str) -> None:
    async with open_log(f"{kafka_url}?compression=gzip") as log:
        await log.create_topic("events")
        given = [Record(parts=(b"same" * 1000,), key=b"%d" % n) for n in range(50)]
        await log.append("events", 0, given)
        assert [item.record for item in await log.read(await log.position("events", 0))] == given


async def test_retention_by_age_follows_the_brokers_clock(log: Log) -> None:
    await log.create_topic("events", retention=Retention(max_age_s=1.0))
    await log.append("events", 0, [Record(parts=(b"old",))] * 3)
    await asyncio.sleep(1.2)  # the broker's clock cannot be turned
    await log.append("events", 0, [Record(parts=(b"new",))])
    (done,) = await log.enforce_retention("events")
    assert done.earliest == 3
    assert [item.record.parts for item in await log.read(await log.position("events", 0))] == [(b"new",)]
    assert await log.events("events") == []


async def test_offset_at_follows_the_brokers_clock(log: Log) -> None:
    await log.create_topic("events")
    times = []
    for _ in range(3):
        times.append((await log.append("events", 0, [Record()] * 2)).log_time_ms)
        await asyncio.sleep(0.02)
    assert [await log.offset_at("events", 0, time) for time in times] == [0, 2, 4]
    assert await log.offset_at("events", 0, times[1] + 1) == 4
    assert await log.offset_at("events", 0, times[2] + 1) == 6


async def test_a_thousand_restarts_of_a_client_create_no_topic(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    await log.create_topic("events")
    async with admin_client(kafka_server) as admin:
        before = set(await admin.list_topics())
        for number in range(RESTARTS):
            async with open_log(kafka_url) as again:
                if number % 10:
                    continue
                await again.append("events", 0, [Record()])
                with pytest.raises(TopicNotFound, match="nosuch"):
                    await again.append("nosuch", 0, [Record()])
        assert set(await admin.list_topics()) == before


async def test_the_logs_own_topic_stays_small_and_a_fresh_handle_still_knows_everything(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    await log.create_topic("events", labels={"l": "v"})
    await log.append("events", 0, [Record()] * 10)
    generation = await log.open_generation("g", "events")
    await log.commit("g", "events", {0: 7}, generation=generation)
    await log.hold("events", Holder("pin", HolderKind.PINNED, {0: 5}))
    for _ in range(25):
        await asyncio.gather(*(log.register_producer(f"p{n}") for n in range(100)))
    meta = TopicPartition(f"__dynlog.{prefix_of(kafka_url)}", 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_server.address)
    await consumer.start()
    try:
        earliest = (await consumer.beginning_offsets([meta]))[meta]
    finally:
        await consumer.stop()
    assert earliest >= 2_000
    async with open_log(kafka_url) as fresh:
        assert dict((await fresh.topic("events")).labels) == {"l": "v"}
        assert dict((await fresh.committed("g", "events")).positions) == {0: 7}
        assert [state.holder.name for state in await fresh.holders("events")] == ["group:g", "pin"]
        assert await fresh.register_producer("p7") == 26


@pytest.mark.parametrize(("as_of", "epoch"), [(1, 1), (2, 2)])
async def test_a_fold_that_begins_at_a_snapshot_counts_each_entry_once(
    log: Log, kafka_url: str, kafka_server: RunningServer, as_of: int, epoch: int
) -> None:
    """Of the entries that lie before the snapshot, at offsets 0 and 1, the fold finds only the second one."""
    assert [await log.register_producer("p") for _ in range(2)] == [1, 2]
    meta, state = f"__dynlog.{prefix_of(kafka_url)}", State(epochs={"p": epoch})
    packed = zlib.compress(msgpack.packb(pack_state(state)))
    async with foreign_producer(kafka_server) as producer:
        for piece, content in enumerate((packed[:9], packed[9:])):
            await producer.send_and_wait(meta, msgpack.packb(["snapshot", b"", [as_of, 7, piece, 2, content]]))
    async with admin_client(kafka_server) as admin:
        await admin.delete_records({TopicPartition(meta, 0): RecordsToDelete(before_offset=1)})
    async with open_log(kafka_url) as fresh:
        assert await fresh.register_producer("p") == 3
    assert await log.register_producer("p") == 4


async def test_what_is_kafkas_own_to_do_is_refused_with_the_tool_that_does_it(log: Log, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MirrorMaker") as refused:
        await log.backup(tmp_path / "copy")
    assert f"'dynlog log copy {log.url} sqlite://{tmp_path}/copy'" in str(refused.value)
    assert await log.quarantine() == []


async def test_of_what_a_producer_sent_twice_a_reader_hands_out_each_record_once(log: Log) -> None:
    await log.create_topic("events", partitions=2)
    again = [Record(parts=(b"%d" % n,), mark=Mark("p", 2, n)) for n in range(5)]
    for sent in (again, again, [Record(parts=(b"zombie",), mark=Mark("p", 1, 9))], again[3:]):
        await log.append("events", 1, sent)
    async with await Reader.open(log, "events") as reader:
        found: list[bytes] = []
        while reader.positions[1].offset < 13:
            batch = await reader.next(5)
            found += [body[0] for body in batch.bodies] if batch is not None else []
    assert found == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_creation_that_was_broken_off_is_nobodys_topic_and_is_completed_by_the_next(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    """Its creator died after Kafka had made the topic."""
    async with foreign_producer(kafka_server) as producer:
        await producer.send_and_wait(f"__dynlog.{prefix_of(kafka_url)}", msgpack.packb(["intend", b"", ["events"]]))
    async with admin_client(kafka_server) as admin:
        await admin.create_topics([NewTopic(f"{prefix_of(kafka_url)}.events", 1, 1)])
    assert await log.topics() == []
    with pytest.raises(TopicNotFound):
        await log.append("events", 0, [Record()])
    await log.create_topic("events", labels={"l": "v"})
    assert (await log.append("events", 0, [Record()])).offsets == (0,)


async def test_a_deletion_that_was_broken_off_is_completed_by_who_creates_the_topic_anew(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    """Its deleter died before Kafka was told."""
    old = await log.create_topic("events")
    await log.append("events", 0, [Record()])
    entry = msgpack.packb(["delete", b"", ["events", old.incarnation]])
    async with foreign_producer(kafka_server) as producer:
        await producer.send_and_wait(f"__dynlog.{prefix_of(kafka_url)}", entry)
    assert await log.topics() == []
    new = await log.create_topic("events")
    assert new.incarnation != old.incarnation
    assert (await log.append("events", 0, [Record()])).offsets == (0,)


async def test_marks_read_back_whatever_stands_between_them(log: Log) -> None:
    most = (1 << 63) - 1
    marks = [
        Mark("p", 1, 0), Mark("p", 1, 1), None, Mark("p", 1, 2), Mark("p", 1, 3), Mark("q", 1, 4), Mark("p", 1, 4),
        Mark("p", 1, 4), Mark("p", 2, 5), Mark("p", 2, most - 1), Mark("p", 2, most), Mark("p", most, most), None,
    ]  # fmt: skip
    plain = [Record(parts=(b"%d" % n,), mark=mark) for n, mark in enumerate(marks)]
    headed = [
        Record(parts=(b"x",), mark=Mark("r", 1, n), headers={"h": b"1"} if n % 3 == 1 else {}, timestamp_ms=n % 2)
        for n in range(9)
    ]
    await log.create_topic("events")
    await log.append("events", 0, plain + headed)
    for start in (0, 1, 3, 12, 15):
        batch = await log.read(await log.position("events", 0, start))
        assert [item.record for item in batch] == (plain + headed)[start:]
    assert [(run.start, run.length) for run in batch.marks] == [(0, 7)]
