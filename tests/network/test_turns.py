"""Handlers that share a task: nobody can tell, whatever one of them does to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from uuid import uuid4

import pytest

from dynlog.call_errors import Cancelled, HandlerFailed
from dynlog.network.calls import Call, CallPath, Request
from dynlog.network.incoming import current_call
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services, ServiceSettings
from dynlog.open import open_log
from dynlog.timing import Deadline
from tests.network.call_backend import CALLER, SERVER
from tests.network.sessions import session_pair

CALLS = 48
_variable: ContextVar[int] = ContextVar("of_a_handler", default=0)
Handler = Callable[[Request], Awaitable[bytes]]


@pytest.fixture(params=["session", "log"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def serving(way: str, handler: Handler, settings: ServiceSettings | None = None) -> AsyncIterator[CallPath]:
    services = Services()
    services.add(SERVER, "t", handler, settings)
    async with AsyncExitStack() as stack:
        if way == "session":
            path: CallPath = (await stack.enter_async_context(session_pair(["tcp://127.0.0.1:0"], services))).path
        else:
            log = await stack.enter_async_context(open_log(f"memory://{uuid4().hex}"))
            await stack.enter_async_context(LogServer.open(log, "calls", services, [SERVER]))
            path = await stack.enter_async_context(LogCaller.open(log, "calls", CALLER))
        await asyncio.gather(*(ask(path, -1) for _ in range(2)))  # from the first on it is known not to wait
        yield path


async def ask(path: CallPath, number: int) -> int:
    return int(bytes(await path.request(Call(SERVER, "t", Deadline(10.0), CALLER), b"%d" % number)))


def said(request: Request) -> int:
    return int(bytes(request.body))


async def test_handlers_that_do_not_wait_share_a_task_and_run_in_order(way: str) -> None:
    ran: list[int] = []
    tasks: Counter[int] = Counter()

    async def handler(request: Request) -> bytes:
        ran.append(said(request))
        tasks[id(asyncio.current_task())] += 1
        assert current_call.get() is request
        return bytes(request.body)

    async with serving(way, handler) as path:
        ran.clear()
        assert await asyncio.gather(*(ask(path, n) for n in range(CALLS))) == list(range(CALLS))
    assert ran == list(range(CALLS))
    assert max(tasks.values()) > 1


@pytest.mark.parametrize("waits", [0, 5, CALLS - 1])
async def test_one_that_waits_after_all_keeps_nobody(way: str, waits: int) -> None:
    ran: list[int] = []
    free = asyncio.Event()

    async def handler(request: Request) -> bytes:
        ran.append(said(request))
        if said(request) == waits:
            await free.wait()
        return bytes(request.body)

    async with serving(way, handler) as path:
        ran.clear()
        asked = [asyncio.create_task(ask(path, n)) for n in range(CALLS)]
        done, left = await asyncio.wait(asked, timeout=0.5)
        assert (len(done), len(left)) == (CALLS - 1, 1)
        assert ran == list(range(CALLS))
        free.set()
        assert await asyncio.gather(*asked) == list(range(CALLS))


async def test_what_one_does_to_its_task_and_context_is_its_own(way: str) -> None:
    found: set[int] = set()

    async def handler(request: Request) -> bytes:
        number = said(request)
        found.add(_variable.get())
        _variable.set(number + 2)
        if number == 40:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        if number % 3 == 0:
            task.cancel()  # takes effect where it waits next, which it never does
        if number % 3 == 1:
            raise LookupError("of this one alone")
        return bytes(request.body)

    async with serving(way, handler) as path:
        for _ in range(2):
            got = await asyncio.gather(*(ask(path, n) for n in range(CALLS)), return_exceptions=True)
            for number, reply in enumerate(got):
                assert isinstance(reply, HandlerFailed) if number % 3 == 1 else reply == number
    assert found == {0}


async def test_a_cancelled_caller_stops_its_own_handler_only(way: str) -> None:
    stopped: list[int] = []
    stop = asyncio.Event()

    async def handler(request: Request) -> bytes:
        if (number := said(request)) > 0 and number % 2:
            try:
                await asyncio.sleep(0.5 if number > 1 else 60)
            except asyncio.CancelledError:
                stopped.append(number)
                stop.set()
                raise
        return bytes(request.body)

    async with serving(way, handler) as path:
        asked = [asyncio.create_task(ask(path, n)) for n in range(CALLS)]
        await asyncio.sleep(0.1)
        asked[1].cancel()
        got = await asyncio.gather(*asked, return_exceptions=True)
        assert [reply for n, reply in enumerate(got) if n != 1] == [n for n in range(CALLS) if n != 1]
        await asyncio.wait_for(stop.wait(), 5)
    assert stopped == [1]


async def test_a_handler_that_catches_its_cancellation_still_answers_as_it_did(way: str) -> None:
    async def handler(request: Request) -> bytes:
        if said(request) == 3:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                task.uncancel()
                await asyncio.sleep(0)  # it may wait again
                return b"33"
        if said(request) == 4:
            raise asyncio.CancelledError
        return bytes(request.body)

    async with serving(way, handler) as path:
        got = await asyncio.gather(*(ask(path, n) for n in range(8)), return_exceptions=True)
    assert isinstance(got[4], Cancelled)
    assert [reply for n, reply in enumerate(got) if n != 4] == [0, 1, 2, 33, 5, 6, 7]


async def test_one_at_a_time_stays_one_at_a_time(way: str) -> None:
    running = 0

    async def handler(request: Request) -> bytes:
        nonlocal running
        running += 1
        assert running == 1
        if said(request) % 4 == 3:
            await asyncio.sleep(0)
        running -= 1
        return bytes(request.body)

    async with serving(way, handler, ServiceSettings(max_running=1)) as path:
        assert await asyncio.gather(*(ask(path, n) for n in range(CALLS))) == list(range(CALLS))
