"""Made again, taken over, shared, too late: what a call on the log is beyond what every path's call is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.call_errors import CallOutcomeUnknown, Expired, HandlerFailed
from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.membership import GroupTiming
from dynlog.network.calls import Call, Handler, Request
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_records import PARTITIONS
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services
from dynlog.open import open_log
from dynlog.partition import partition_of
from dynlog.record import Buffer, Record
from dynlog.timing import Deadline, ManualClock
from tests.network.call_backend import CALLER, PATIENCE_S, SERVER
from tests.network.log_calls import NAME

FLEET = DynamoEntityID.collection("workers")


def call(name: str, attempt: int = 1, deadline: float = PATIENCE_S, target: DynamoEntityID = SERVER) -> Call:
    return Call(target, "work", Deadline(deadline), CALLER, correlation_id=name, attempt=attempt)


@asynccontextmanager
async def server(log: Log, handler: Handler, *targets: DynamoEntityID, grace: float = 0.2) -> AsyncIterator[LogServer]:
    services = Services()
    for target in targets or (SERVER,):
        services.add(target, "work", handler)
    timing = GroupTiming(heartbeat_s=0.1, expire_s=1.0)
    async with LogServer.open(log, NAME, services, targets or (SERVER,), grace=grace, timing=timing) as serving:
        yield serving


async def in_the_log(log: Log) -> None:
    """Waits until a request lies there."""
    partition = partition_of(SERVER.key, PARTITIONS)
    batch = await log.read(await log.position(f"{NAME}.requests", partition), wait=PATIENCE_S)
    assert len(batch)


class Counted:
    """A handler that numbers its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.attempts: list[int] = []

    async def __call__(self, request: Request) -> Buffer:
        self.runs += 1
        self.attempts.append(request.attempt)
        return b"run %d" % self.runs


@pytest.fixture(params=["memory", "memory-by-reader", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    urls = {
        "memory": f"memory://{uuid4().hex}",
        "memory-by-reader": f"memory://{uuid4().hex}?checks_marks=false",
        "sqlite": f"sqlite:///{tmp_path}/calls.db",
    }
    async with open_log(urls[request.param]) as opened:
        yield opened


async def test_a_call_that_its_caller_gave_up_on_and_makes_again_gets_its_first_answer_without_running(
    log: Log,
) -> None:
    counted = Counted()
    async with server(log, counted), LogCaller.open(log, NAME, CALLER) as first:
        assert bytes(await first.request(call("x"), b"")) == b"run 1"
        # Acknowledgements leave a moment later: the same name again, before that, finds the answer.
        assert bytes(await first.request(call("x", attempt=2), b"")) == b"run 1"
        assert bytes(await first.request(call("y"), b"")) == b"run 2"
    assert counted.runs == 2


async def test_what_was_acknowledged_is_expired_when_it_is_asked_for_again(log: Log) -> None:
    counted = Counted()
    async with server(log, counted), LogCaller.open(log, NAME, CALLER) as first:
        assert bytes(await first.request(call("x"), b"")) == b"run 1"
    # The caller's end acknowledged, and the next owner folds that before it serves; the one before it may be behind.
    async with server(log, counted), LogCaller.open(log, NAME, CALLER) as second:
        with pytest.raises(Expired, match="answered"):
            await second.request(call("x", attempt=2), b"")
    assert counted.runs == 1


async def test_a_new_owner_knows_the_answers_of_the_last_one(log: Log) -> None:
    counted = Counted()
    async with LogCaller.open(log, NAME, CALLER) as caller:
        async with server(log, counted):
            assert bytes(await caller.request(call("x"), b"")) == b"run 1"
            first = await caller.request(call("x", attempt=2), b"")
        async with server(log, counted):
            with suppress(Expired):  # if the acknowledgement was there first
                assert bytes(await caller.request(call("x", attempt=3), b"")) == bytes(first)
    assert counted.runs == 1


async def test_a_call_that_waits_for_a_server_is_served_when_one_comes_as_its_first_attempt(log: Log) -> None:
    counted = Counted()
    async with LogCaller.open(log, NAME, CALLER) as caller:
        waiting = asyncio.create_task(caller.request(call("x"), b""))
        await in_the_log(log)
        async with server(log, counted):
            assert bytes(await waiting) == b"run 1"
    assert counted.attempts == [1]


async def test_a_call_that_came_after_a_server_was_closed_is_the_next_ones_first_attempt(log: Log) -> None:
    counted = Counted()
    async with LogCaller.open(log, NAME, CALLER) as caller:
        async with server(log, counted):
            await caller.request(call("x"), b"")
        async with server(log, counted):
            pass
        waiting = asyncio.create_task(caller.request(call("y"), b""))
        at = await log.position(f"{NAME}.requests", partition_of(SERVER.key, PARTITIONS), 1)
        assert len(await log.read(at, wait=PATIENCE_S))
        async with server(log, counted):
            assert bytes(await waiting) == b"run 2"
    assert counted.attempts == [1, 1]


async def test_what_a_closed_server_left_running_is_the_next_ones_with_a_higher_attempt(log: Log) -> None:
    begun = asyncio.Event()

    async def stands(request: Request) -> Buffer:
        begun.set()
        await asyncio.sleep(PATIENCE_S * 2)
        return b"never"

    counted = Counted()
    async with LogCaller.open(log, NAME, CALLER) as caller:
        async with server(log, stands, grace=0.05):
            waiting = asyncio.create_task(caller.request(call("x"), b""))
            await begun.wait()
        async with server(log, counted):
            assert bytes(await waiting) == b"run 1"
            assert bytes(await caller.request(call("y"), b"")) == b"run 2"
    assert counted.attempts == [2, 1]


async def test_a_stream_cut_by_the_end_of_its_server_is_of_unknown_outcome_and_not_run_again(log: Log) -> None:
    runs = 0

    async def stands(request: Request) -> AsyncIterator[Buffer]:
        nonlocal runs
        runs += 1
        yield b"first"
        await asyncio.sleep(PATIENCE_S * 2)

    async with LogCaller.open(log, NAME, CALLER) as caller:
        async with server(log, stands, grace=0.05):
            stream = caller.stream(call("x"), b"")
            replies = await stream.__aenter__()
            assert bytes(await anext(replies)) == b"first"
        async with server(log, stands):
            with pytest.raises(CallOutcomeUnknown, match="midst"):
                await anext(replies)
        await stream.__aexit__(None, None, None)
    assert runs == 1


async def test_a_second_life_of_an_instance_fences_the_first(log: Log) -> None:
    old, new = Counted(), Counted()
    async with LogCaller.open(log, NAME, CALLER) as caller, server(log, old) as first:
        assert bytes(await caller.request(call("x"), b"")) == b"run 1"
        (lane,) = first.lanes
        async with server(log, new):
            # Whatever the first one still does before it notices: it answers nothing any more.
            async with asyncio.timeout(PATIENCE_S):
                number = 0
                while lane.serving.is_set() or number < 20:
                    number += 1
                    assert bytes(await caller.request(call(f"y{number}"), b"")) == b"run %d" % number


async def test_effects_are_in_the_log_once_and_only_those_of_calls_that_went_well(log: Log) -> None:
    await log.create_topic("facts", partitions=2)

    async def work(request: Request) -> Buffer:
        assert isinstance(request, LogRequest)
        name = request.correlation_id.encode()
        for number in range(2):
            request.effects.append("facts", Record((name, b"%d" % number)), partition=number)
        if name.startswith(b"bad"):
            raise ValueError("no")
        return b""

    async with LogCaller.open(log, NAME, CALLER) as caller:
        for life in range(3):
            async with server(log, work):
                for number in range(5):
                    await caller.request(call(f"good {life} {number}"), b"")
                    with pytest.raises(HandlerFailed):
                        await caller.request(call(f"bad {life} {number}"), b"")
                expected = [f"good {past} {number}".encode() for past in range(life + 1) for number in range(5)]
                for partition in range(2):
                    found: list[bytes] = []
                    at = await log.position("facts", partition)
                    async with asyncio.timeout(PATIENCE_S):
                        while len(found) < len(expected):
                            batch = await log.read(at, wait=PATIENCE_S)
                            found += [bytes(body[0]) for body in batch.bodies]
                            at = batch.next_position
                    assert found == expected


async def test_an_effect_with_nowhere_to_go_fails_the_call(log: Log) -> None:
    async def work(request: Request) -> Buffer:
        assert isinstance(request, LogRequest)
        request.effects.append("nowhere", Record((b"x",)))
        return b""

    async with server(log, work), LogCaller.open(log, NAME, CALLER) as caller:
        with pytest.raises(HandlerFailed, match="nowhere") as caught:
            await caller.request(call("x"), b"")
        assert caught.value.kind == "TopicNotFound"


async def test_two_servers_share_the_calls_of_a_collection_and_one_takes_all_when_the_other_goes(log: Log) -> None:
    first, second = Counted(), Counted()
    async with LogCaller.open(log, NAME, CALLER) as caller, server(log, first, FLEET):
        async with server(log, second, FLEET) as other:
            async with asyncio.timeout(PATIENCE_S):
                number = 0
                while not (first.runs and second.runs):
                    await caller.request(call(f"call {number}", target=FLEET), b"")
                    number += 1
            assert other.lanes
        before = first.runs
        for number in range(20):
            await caller.request(call(f"alone {number}", target=FLEET), b"")
        assert first.runs == before + 20


async def test_a_call_for_more_than_a_day_is_refused(log: Log) -> None:
    async with LogCaller.open(log, NAME, CALLER) as caller:
        with pytest.raises(ConfigurationError, match="86400"):
            await caller.request(call("x", deadline=90_000.0), b"")


async def test_a_call_whose_deadline_passed_in_the_log_is_not_run() -> None:
    counted = Counted()
    clock = ManualClock()
    async with open_log(f"memory://{uuid4().hex}", clock=clock) as log:
        async with LogCaller.open(log, NAME, CALLER) as caller:
            waiting = asyncio.create_task(caller.request(call("x", deadline=10.0), b""))
            await in_the_log(log)
            waiting.cancel()
            clock.advance(11.0)
        async with server(log, counted) as serving, LogCaller.open(log, NAME, CALLER) as caller:
            assert bytes(await caller.request(call("y"), b"")) == b"run 1"
            assert counted.runs == 1
            assert sum(lane.late for lane in serving.lanes) == 1
