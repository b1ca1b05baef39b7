"""Whoever starts an HTTP server of ours is told within a deadline if it does not come up, and nothing stays behind."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvicorn

from dynlog import tasks
from dynlog.call_errors import WireUnavailable
from dynlog.errors import DeadlineExceeded, DynlogError
from dynlog.router.http_server import listen, serving
from dynlog.tasks import until_started
from dynlog.wire import make_wire


class Server:
    """One that a test starts."""

    def __init__(self) -> None:
        self.started = False
        self.may_start = asyncio.Event()

    async def serve(self) -> None:
        await self.may_start.wait()
        self.started = True
        await asyncio.Event().wait()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "START_S", 0.05)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn never starts."""

    async def startup(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(uvicorn.Server, "startup", startup)


async def test_a_server_that_starts_is_waited_for() -> None:
    server = Server()
    task = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(until_started(server, task, "it"))
    await asyncio.sleep(0)
    assert not waiting.done()
    server.may_start.set()
    await waiting
    assert not task.done()
    await tasks.end_task(task)


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_does_not_start_is_ended_and_it_is_said_what_to_do() -> None:
    server = Server()
    task = asyncio.create_task(server.serve())
    with pytest.raises(DeadlineExceeded, match=r"^it did not answer within 0.05 s: .*and start it again$"):
        await until_started(server, task, "it")
    assert task.cancelled()


async def test_a_server_that_ends_before_it_answers_is_known_at_once() -> None:
    async def fails() -> None:
        raise OSError("no socket")

    async def ends() -> None:
        return

    with pytest.raises(OSError, match="no socket"):
        await until_started(Server(), asyncio.create_task(fails()), "it")
    with pytest.raises(DynlogError, match="it was stopped before it answered: start it again"):
        await until_started(Server(), asyncio.create_task(ends()), "it")
    with pytest.raises(WireUnavailable):
        await until_started(Server(), asyncio.create_task(ends()), "it", WireUnavailable)


@pytest.mark.usefixtures("hasty", "stuck")
async def test_a_router_whose_server_does_not_start_leaves_nothing_behind() -> None:
    before, listening = asyncio.all_tasks(), listen("127.0.0.1:0")
    with pytest.raises(DeadlineExceeded, match=r"the router's HTTP server at http://127.0.0.1:"):
        async with asyncio.timeout(20), serving(None, listening):
            raise AssertionError("it does not start")
    assert listening.fileno() == -1
    assert asyncio.all_tasks() == before


@pytest.mark.usefixtures("hasty", "stuck")
async def test_a_wire_whose_server_does_not_start_leaves_nothing_behind() -> None:
    before, wire = asyncio.all_tasks(), make_wire("sse")
    with pytest.raises(DeadlineExceeded, match=r"the HTTP server at sse://127.0.0.1:"):
        await wire.listen("sse://127.0.0.1:0", lambda channel: pytest.fail("nobody dials"))
    await wire.close()
    assert asyncio.all_tasks() == before
