"""What lost its place is void: on every way to read it is a hole, for another client it is a message with a header."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from dynlog.batch import Position
from dynlog.copying import copy_topic, verify_copy
from dynlog.errors import OffsetConflict, OutcomeUnknown
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Record
from dynlog.testing.kinds import RunningServer
from tests.conformance.backend import bodies, marked, numbered, records, stored

TOPIC = "events"


@pytest.fixture
async def log(kafka_url: str) -> AsyncIterator[Log]:
    """``r0 r1``, two void messages at 2 and 3, ``a`` at 4, three void ones at the end."""
    async with open_log(kafka_url) as log:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, numbered(2))
        await lose(log, "x", "y")
        await log.append(TOPIC, 0, records("a"))
        await lose(log, "x", "y", "z")
        yield log


async def lose(log: Log, *texts: str) -> None:
    with pytest.raises(OffsetConflict):
        await log.append(TOPIC, 0, records(*texts), expect=0)


async def test_void_messages_are_holes_wherever_and_however_a_read_begins(log: Log) -> None:
    whole = {0: b"r0", 1: b"r1", 4: b"a"}
    for start in range(9):
        for most in (None, 1):
            position, found = await log.position(TOPIC, 0, start), {}
            while position.offset < 8:
                batch = await log.read(position, max_records=most)
                assert len(batch) or batch.next_offset == batch.end_offset == 8
                found.update({item.offset: item.record.parts[0] for item in batch})
                position = batch.next_position
            assert found == {offset: body for offset, body in whole.items() if offset >= start}


async def test_a_read_that_waits_in_front_of_void_messages_only_moves_on(log: Log) -> None:
    batch = await log.read(await log.position(TOPIC, 0, 5), wait=20)
    assert (len(batch), batch.next_offset, batch.end_offset) == (0, 8, 8)


async def test_a_reader_and_a_verification_and_a_copy_know_nothing_of_them(log: Log) -> None:
    async with await Reader.open(log, TOPIC) as reader:
        found: list[bytes] = []
        while reader.positions[0].offset < 8:
            if (batch := await reader.next(5)) is not None:
                found += [body[0] for body in batch.bodies]
    assert found == [b"r0", b"r1", b"a"]
    assert [damage async for damage in log.verify()] == []
    async with open_log("memory://") as target:
        topic = await log.topic(TOPIC)
        assert (await copy_topic(log, target, topic, lambda done: None)).copied == 3
        assert await verify_copy(log, target, topic) == 3
        assert await bodies(target) == ["r0", "r1", "a"]


async def test_offset_at_names_a_record_and_never_a_void_message(log: Log) -> None:
    times = {item.offset: item.log_time_ms for item in await stored(log)}
    await asyncio.sleep(0.02)  # the broker's clock cannot be turned
    await lose(log, "x")
    await asyncio.sleep(0.02)
    last = await log.append(TOPIC, 0, records("last"))
    assert last.offsets == (9,)
    assert await log.offset_at(TOPIC, 0, times[4] + 1) in (8, 9)
    assert await log.offset_at(TOPIC, 0, last.log_time_ms - 10) == 9
    await lose(log, "x")
    assert await log.offset_at(TOPIC, 0, last.log_time_ms + 1) == 11


async def test_what_was_truncated_down_to_a_void_message_begins_with_the_next_record(log: Log) -> None:
    assert (await log.truncate(TOPIC, 0, 3)).earliest == 3
    assert [item.offset for item in await stored(log)] == [4]


async def test_another_client_sees_them_with_the_offset_that_they_expected(
    log: Log, kafka_url: str, kafka_server: RunningServer
) -> None:
    won = await log.append(TOPIC, 0, records("b", "c"), expect=8)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_server.address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(f"{kafka_url.rsplit('/', 1)[1]}.{TOPIC}", 0)])
        seen = [await consumer.getone() for _ in range(10)]
    finally:
        await consumer.stop()
    expected = {m.offset: int.from_bytes(dict(m.headers)["dl.expect"], "big") for m in seen if m.headers}
    assert expected == {2: 0, 3: 1, 5: 0, 6: 1, 7: 2, 8: 8, 9: 9}
    kept = [m.value for m in seen if expected.get(m.offset, m.offset) == m.offset]
    assert kept == [item.record.parts[0] for item in await stored(log)] == [b"r0", b"r1", b"a", b"b", b"c"]
    assert won.offsets == (8, 9)


async def test_the_users_own_header_of_that_name_makes_nothing_void(log: Log) -> None:
    await log.append(TOPIC, 0, [Record(parts=(b"b",), headers={"dl.expect": b"\0" * 8})])
    (last,) = await log.read(await log.position(TOPIC, 0, 8))
    assert (last.record.parts, dict(last.record.headers)) == ((b"b",), {"dl.expect": b"\0" * 8})


async def test_a_repeat_whose_first_append_was_truncated_is_told_that_nobody_knows(log: Log) -> None:
    again = marked("p", 1, 0, "b")
    assert (await log.append(TOPIC, 0, again, expect=8)).offsets == (8,)
    await log.append(TOPIC, 0, records("c"))
    await log.truncate(TOPIC, 0, 9)
    with pytest.raises(OutcomeUnknown, match="truncated"):
        await log.append(TOPIC, 0, again, expect=8)
    with pytest.raises(OffsetConflict):
        await log.append(TOPIC, 0, records("x"), expect=8)


async def test_a_position_that_lies_among_void_messages_can_be_committed_and_held(log: Log) -> None:
    generation = await log.open_generation("g", TOPIC)
    await log.commit("g", TOPIC, {0: 6}, generation=generation)
    position = Position(TOPIC, (await log.topic(TOPIC)).incarnation, 0, (await log.committed("g", TOPIC)).positions[0])
    await log.append(TOPIC, 0, records("b"))
    assert [item.record.parts for item in await log.read(position)] == [(b"b",)]
