"""Effects lie in the outcome: a server that died with them in hands leaves them to the next, who appends each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from dynlog.delivery import DeliveryPolicy
from dynlog.errors import ConfigurationError, DynlogError, MalformedRecord, PartitionNotFound, TopicNotFound
from dynlog.log import Log
from dynlog.network import log_lane
from dynlog.network.calls import Call, Request
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_clock import LogClock
from dynlog.network.log_effects import Effects, append_all
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_outbox import Outbox
from dynlog.network.log_records import BARRIER, END, CallTopics, lane_name, pack
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Buffer, Control, Mark, Record
from dynlog.timing import Deadline
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
        await append_all(log, "p", [(10, first)], DeliveryPolicy())
    await append_all(log, "p", [(11, second)], DeliveryPolicy())
    await append_all(log, "p", [(10, first)], DeliveryPolicy())
    await append_all(log, "p", [(12, await encoded(log, b"last"))], DeliveryPolicy())
    assert await bodies(log, 4) == [b"1", b"2", b"3", b"last"]


async def test_an_effect_keeps_key_headers_control_and_time(log: Log) -> None:
    await append_all(log, "p", [(0, await encoded(log, b"1"))], DeliveryPolicy())
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


async def test_an_effect_for_a_partition_that_is_not_there_is_refused_before_the_reply(log: Log) -> None:
    effects = Effects()
    effects.append("facts", Record((b"x",)), partition=1)
    with pytest.raises(PartitionNotFound, match="has 1"):
        await effects.encode(log)


async def test_effects_of_many_outcomes_leave_in_one_append(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    append = log.append

    async def counted(topic: str, partition: int, records: list[Record], **more: float) -> object:
        sizes.append(len(records))
        return await append(topic, partition, records, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "append", counted)
    outcomes = [(offset, await encoded(log, b"%d a" % offset, b"%d b" % offset)) for offset in range(50)]
    await append_all(log, "p", outcomes, DeliveryPolicy())
    assert sizes == [100]
    assert await bodies(log, 100) == [b"%d %s" % (offset, name) for offset in range(50) for name in (b"a", b"b")]


async def test_effects_that_are_more_than_one_append_takes_are_all_there_in_order(log: Log) -> None:
    size = log.capabilities.max_batch_bytes // 3
    outcomes = [(offset, await encoded(log, b"%d" % offset * size)) for offset in range(7)]
    assert await append_all(log, "p", outcomes, DeliveryPolicy()) == []
    assert await append_all(log, "p", outcomes[3:], DeliveryPolicy()) == []  # cut elsewhere, all the same once
    assert [body[:1] for body in await bodies(log, 7)] == [b"%d" % offset for offset in range(7)]


async def test_an_effect_whose_topic_is_gone_is_counted_and_stops_nobody_else(log: Log) -> None:
    topics = await CallTopics.make(log, NAME)
    partition = topics.partition(SERVER, b"")
    await log.create_topic("doomed")
    doomed = Effects()
    doomed.append("doomed", Record((b"lost",)))
    doomed.append("doomed", Record((b"lost, too",)), partition=0)
    dead = Outbox(log, lane_name(topics, SERVER.key, partition), LogClock())
    await dead.open()
    dead.put(topics.replies, partition, SERVER.key, BARRIER, (pack((SERVER.key, 0)),))
    for number, effects in enumerate([await doomed.encode(log), await encoded(log, b"fine")]):
        meta = pack((SERVER.key, f"call {number}", number, 2**50, False))
        dead.put(topics.replies, partition, CALLER.key, END, (meta, b"", effects))
    await dead.close()
    await log.delete_topic("doomed")
    async with LogServer.open(log, NAME, Services(), [SERVER]) as server:
        assert await bodies(log, 1) == [b"fine"]
        (lane,) = server.lanes
        assert lane.lost == 2
        assert lane.serving.is_set()


def with_effects() -> Services:
    async def work(request: Request) -> Buffer:
        assert isinstance(request, LogRequest)
        request.effects.append("facts", Record((request.correlation_id.encode(),)))
        return b""

    services = Services()
    services.add(SERVER, "work", work)
    return services


def asking(name: str) -> Call:
    return Call(SERVER, "work", Deadline(PATIENCE_S), CALLER, correlation_id=name)


class Gate:
    """Holds the effects back until it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        monkeypatch.setattr(log_lane, "append_all", self._append_all)

    async def _append_all(
        self, log: Log, producer: str, outcomes: list[tuple[int, bytes]], policy: DeliveryPolicy
    ) -> list[tuple[str, DynlogError]]:
        self.reached.set()
        await self.opened.wait()
        return await append_all(log, producer, outcomes, policy)


async def test_a_server_that_is_closed_appends_the_effects_of_what_it_answered(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with LogCaller.open(log, NAME, CALLER) as caller:
        async with LogServer.open(log, NAME, with_effects(), [SERVER]):
            await caller.request(asking("x"), b"")
            await gate.reached.wait()
            asyncio.get_running_loop().call_later(0.05, gate.opened.set)
        (state,) = await log.partitions("facts")
        assert state.end == 1


async def test_calls_wait_while_too_many_effects_are_not_appended(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lane, "MOST_EFFECTS_BYTES", 0)
    gate = Gate(monkeypatch)
    async with LogCaller.open(log, NAME, CALLER) as caller, LogServer.open(log, NAME, with_effects(), [SERVER]):
        await caller.request(asking("first"), b"")
        await gate.reached.wait()
        second = asyncio.create_task(caller.request(asking("second"), b""))
        await second  # was being read for already
        third = asyncio.create_task(caller.request(asking("third"), b""))
        done, _ = await asyncio.wait([third], timeout=0.3)
        assert not done
        gate.opened.set()
        await third
        assert await bodies(log, 3) == [b"first", b"second", b"third"]
