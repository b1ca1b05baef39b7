"""Effects lie in the outcome: a server that died with them in hands leaves them to the next, who appends each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from dynlog.delivery import DeliveryPolicy
from dynlog.errors import ConfigurationError, MalformedRecord, TopicNotFound
from dynlog.log import Log
from dynlog.network.log_clock import LogClock
from dynlog.network.log_effects import Effects, append_all
from dynlog.network.log_outbox import Outbox
from dynlog.network.log_records import BARRIER, END, CallTopics, lane_name, pack
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Control, Mark, Record
from tests.network.call_backend import CALLER, PATIENCE_S, SERVER
from tests.network.log_calls import NAME


@pytest.fixture(params=["true", "false"], ids=["engine-checks-marks", "reader-checks-marks"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    async with open_log(f"memory://{uuid4().hex}?checks_marks={request.param}") as opened:
        await opened.create_topic("facts")
        yield opened


async def bodies(log: Log, count: int) -> list[bytes]:
    """What a subscriber of the effects sees, at least so many."""
    found: list[bytes] = []
    async with await Reader.open(log, "facts") as reader, asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            batch = await reader.next(PATIENCE_S)
            found += [bytes(body[0]) for body in batch.bodies] if batch is not None else []
    return found


async def encoded(log: Log, *texts: bytes) -> bytes:
    effects = Effects()
    for text in texts:
        effects.append("facts", Record((text,), key=b"k", headers={"h": b"v"}, control=Control.DATA, timestamp_ms=7))
    return await effects.encode(log)


async def test_effects_that_are_appended_again_are_there_once(log: Log) -> None:
    first, second = await encoded(log, b"1", b"2"), await encoded(log, b"3")
    for _ in range(3):
        await append_all(log, "p", 10, first, DeliveryPolicy())
    await append_all(log, "p", 11, second, DeliveryPolicy())
    await append_all(log, "p", 10, first, DeliveryPolicy())
    await append_all(log, "p", 12, await encoded(log, b"last"), DeliveryPolicy())
    assert await bodies(log, 4) == [b"1", b"2", b"3", b"last"]


async def test_an_effect_keeps_key_headers_control_and_time(log: Log) -> None:
    await append_all(log, "p", 0, await encoded(log, b"1"), DeliveryPolicy())
    (stored,) = await log.read(await log.position("facts", 0))
    record = stored.record
    assert (record.key, dict(record.headers), record.control, record.timestamp_ms) == (
        b"k", {"h": b"v"}, Control.DATA, 7
    )  # fmt: skip


async def test_what_a_server_that_died_behind_its_reply_left_is_appended_by_the_next_one(log: Log) -> None:
    topics = await CallTopics.make(log, NAME)
    partition = topics.partition(SERVER, b"")
    dead = Outbox(log, lane_name(topics, SERVER.key, partition), LogClock())
    await dead.open()
    dead.put(topics.replies, partition, SERVER.key, BARRIER, (pack((SERVER.key, 0)),))
    for number in range(3):
        meta = pack((SERVER.key, f"call {number}", number, 2**50, False))
        outcome = (meta, b"", await encoded(log, b"%d" % number))
        dead.put(topics.replies, partition, CALLER.key, END, outcome)
    await dead.close()
    for _ in range(2):  # and by one more, who finds nothing to do
        async with LogServer.open(log, NAME, Services(), [SERVER]):
            assert await bodies(log, 3) == [b"0", b"1", b"2"]


async def test_what_cannot_be_an_effect_is_refused_where_it_is_made(log: Log) -> None:
    effects = Effects()
    with pytest.raises(ConfigurationError, match="mark"):
        effects.append("facts", Record((b"x",), mark=Mark("p", 0, 0)))
    with pytest.raises(MalformedRecord):
        effects.append("facts", Record(("text",)))  # type: ignore[arg-type]
    for _ in range(4096):
        effects.append("nowhere", Record((b"x",)))
    with pytest.raises(ConfigurationError, match="4096"):
        effects.append("nowhere", Record((b"x",)))
    with pytest.raises(TopicNotFound):
        await effects.encode(log)
