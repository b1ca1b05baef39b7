"""Where a caller holds the log: no call that is open is passed, and being busy does not hold for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from dynlog.call_errors import CallOutcomeUnknown, HandlerFailed, NotSent
from dynlog.log import Log
from dynlog.network.calls import Call, Request
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_keeping import Keeping
from dynlog.network.log_records import PARTITIONS, CallTopics
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services
from dynlog.open import open_log
from dynlog.partition import partition_of
from dynlog.record import Buffer, Record
from dynlog.timing import Deadline, ManualClock
from dynlog.topics import PartitionState
from tests.network.call_backend import CALLER, PATIENCE_S, SERVER
from tests.network.log_calls import NAME


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    async with open_log(f"memory://{uuid4().hex}") as opened:
        yield opened


def call(name: str) -> Call:
    return Call(SERVER, "work", Deadline(PATIENCE_S), CALLER, correlation_id=name)


async def topics_of(log: Log) -> CallTopics:
    return await CallTopics.make(log, NAME, 1)


async def held(log: Log, topic: str, name: str = "k") -> int:
    (holder,) = [state.holder for state in await log.holders(topic) if state.holder.name == name]
    return holder.positions[0]


async def test_a_caller_that_always_has_open_calls_moves_on_with_the_oldest_of_them(log: Log) -> None:
    topics = await topics_of(log)
    keeping = Keeping(log, topics, "k")
    await keeping.begin()
    for number in range(1, 10):  # call 1..9, each made before the one before it ends
        await log.append(topics.requests, 0, [Record((b"request",))])
        await log.append(topics.replies, 0, [Record((b"reply",))] * 2)
        await keeping.move(lambda oldest=number: (oldest, oldest + 1))  # type: ignore[misc]
    assert 6 <= await held(log, topics.requests) <= 8
    assert 12 <= await held(log, topics.replies) <= 16


async def test_the_oldest_open_call_is_never_passed(log: Log) -> None:
    topics = await topics_of(log)
    keeping = Keeping(log, topics, "k")
    await keeping.begin()
    for made in range(2, 12):
        await log.append(topics.requests, 0, [Record((b"request",))])
        await keeping.move(lambda made=made: (1, made))  # type: ignore[misc]  # call 1 does not end
    assert await held(log, topics.requests) == 0


async def test_a_call_that_is_made_while_the_ends_are_read_is_not_passed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = await topics_of(log)
    keeping = Keeping(log, topics, "k")
    await keeping.begin()
    made, partitions = 0, log.partitions

    async def slow(topic: str) -> list[PartitionState]:
        nonlocal made
        if not made:  # call 1 is made, and lies in the log, just before its end is read
            made = 1
            await log.append(topics.requests, 0, [Record((b"request",))])
        return await partitions(topic)

    monkeypatch.setattr(log, "partitions", slow)
    for _ in range(4):
        await keeping.move(lambda: (1, made + 1))
        assert await held(log, topics.requests) == 0


async def test_a_hold_that_stands_still_is_repeated_before_the_log_forgets_it(log: Log) -> None:
    topics, clock = await topics_of(log), ManualClock()
    keeping = Keeping(log, topics, "k", clock)
    await keeping.begin()
    await log.release(topics.requests, "k")
    for _ in range(3):
        await keeping.move(lambda: (1, 1))
    assert not await log.holders(topics.requests)  # nothing new is no reason to write
    clock.advance(3601.0)
    await keeping.move(lambda: (1, 1))
    assert await held(log, topics.requests) == 0


async def test_what_an_earlier_life_left_is_held_until_somebody_looked_for_it(log: Log) -> None:
    topics = await topics_of(log)
    await Keeping(log, topics, "k").begin()
    await log.append(topics.requests, 0, [Record((b"request",))])
    heir = Keeping(log, topics, "k")
    await heir.begin()
    for _ in range(3):
        await heir.move(lambda: (1, 1))
    assert await held(log, topics.requests) == 0
    heir.left = False
    for _ in range(2):
        await heir.move(lambda: (1, 1))
    assert await held(log, topics.requests) == 1


async def raises(request: Request) -> Buffer:
    raise ValueError("no")


async def come(log: Log, topic: str, key: bytes, count: int) -> None:
    """Waits until so many records of that key lie there."""
    at = await log.position(topic, partition_of(SERVER.key, PARTITIONS))
    async with asyncio.timeout(PATIENCE_S):
        while count > 0:
            batch = await log.read(at, wait=PATIENCE_S)
            count -= sum(owner == key for owner in batch.keys)
            at = batch.next_position


async def abandoned(log: Log, *names: str) -> None:
    """A life of the caller asks that, and ends without any answer."""
    async with LogCaller.open(log, NAME, CALLER) as caller:
        tasks = [asyncio.create_task(caller.request(call(name), b"")) for name in names]
        await come(log, f"{NAME}.requests", SERVER.key, len(names))
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, CallOutcomeUnknown)


async def test_an_error_is_an_outcome_too_and_found_by_one_life_only(log: Log) -> None:
    await abandoned(log, "x")
    services = Services()
    services.add(SERVER, "work", raises)
    async with LogServer.open(log, NAME, services, [SERVER]):
        async with LogCaller.open(log, NAME, CALLER) as heir:
            (found,) = await heir.resume()
            with pytest.raises(HandlerFailed, match="no"):
                await found.reply(PATIENCE_S)
        async with LogCaller.open(log, NAME, CALLER) as later:
            assert await later.resume() == []


async def test_an_answer_that_was_found_and_not_taken_is_found_by_the_next_life(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.network.log_caller.HOLD_S", 0.001)
    await abandoned(log, "x", "y")
    services = Services()
    services.add(SERVER, "work", raises)
    async with LogServer.open(log, NAME, services, [SERVER]):
        await come(log, f"{NAME}.replies", CALLER.key, 2)
        async with LogCaller.open(log, NAME, CALLER) as heir:
            found = {call.call.correlation_id: call for call in await heir.resume()}
            with pytest.raises(HandlerFailed):
                await found["x"].reply(PATIENCE_S)
            assert found["y"].answered
            for _ in range(5):  # the hold would have moved by now
                await asyncio.sleep(0.002)
        async with LogCaller.open(log, NAME, CALLER) as later:
            assert [call.call.correlation_id for call in await later.resume()] == ["y"]


async def test_a_caller_whose_replies_are_gone_says_so_at_once(log: Log) -> None:
    async with LogCaller.open(log, NAME, CALLER) as caller:
        waiting = asyncio.create_task(caller.request(call("x"), b""))
        await come(log, f"{NAME}.requests", SERVER.key, 1)
        await log.delete_topic(f"{NAME}.replies")
        async with asyncio.timeout(PATIENCE_S / 2):
            with pytest.raises(CallOutcomeUnknown, match="cannot be read any more"):
                await waiting
            with pytest.raises(NotSent, match="over"):
                await caller.request(call("y"), b"")
