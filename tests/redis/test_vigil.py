"""`dynlog.storage.redis.vigil`: the loop stays awake for quick replies, and only for those."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynlog.storage.redis import vigil
from dynlog.storage.redis.vigil import AWAKE_S, Vigil

QUICK, SLOW = AWAKE_S / 2, 10 * AWAKE_S


class Server:
    """Answers when the test says so, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.vigil = Vigil(lambda: self.now)

    def ask(self) -> None:
        self.vigil.begin()

    def answer(self, after_s: float) -> None:
        self.now += after_s
        self.vigil.end()

    async def turns(self, count: int = 5) -> bool:
        """Whether the loop is awake after so many of its turns."""
        for _ in range(count):
            await asyncio.sleep(0)
        return self.vigil.awake

    async def answers(self, count: int, after_s: float) -> None:
        for _ in range(count):
            self.ask()
            await self.turns()
            self.answer(after_s)
            await self.turns()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(vigil, "processors", lambda: 2)
    return Server()


async def test_the_loop_stays_awake_until_the_reply_is_there_and_not_longer(server: Server) -> None:
    server.ask()
    assert await server.turns(100)
    server.answer(QUICK)
    assert not await server.turns()


async def test_a_reply_that_does_not_come_is_slept_for_after_a_moment(server: Server) -> None:
    server.ask()
    server.now += AWAKE_S * 0.9
    assert await server.turns()
    server.now += AWAKE_S * 0.2
    assert not await server.turns()


async def test_a_server_that_is_mostly_slow_is_slept_for_and_one_that_became_quick_is_not(server: Server) -> None:
    await server.answers(50, SLOW)
    server.ask()
    assert not await server.turns()
    server.answer(QUICK)
    await server.answers(50, QUICK)
    server.ask()
    assert await server.turns()


async def test_one_slow_reply_among_quick_ones_changes_nothing(server: Server) -> None:
    await server.answers(50, QUICK)
    await server.answers(1, AWAKE_S * 2)
    server.ask()
    assert await server.turns()


async def test_whoever_asks_at_once_again_looks_once_a_turn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon

    def counted(callback: Any, *args: Any, **rest: Any) -> Any:
        nonlocal looks
        looks += callback == server.vigil._look
        return call_soon(callback, *args, **rest)

    monkeypatch.setattr(loop, "call_soon", counted)
    for _ in range(20):
        server.ask()
        await server.turns(10)
        server.answer(QUICK)
    assert looks <= 20 * 10 + 1


async def test_replies_to_many_commands_at_once_are_not_taken_for_slow_ones(server: Server) -> None:
    await server.answers(1, QUICK)
    for _ in range(50):
        server.now += SLOW
        server.vigil.end()
    server.ask()
    assert await server.turns()


async def test_with_a_single_processor_the_loop_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "processors", lambda: 1)
    server = Server()
    server.ask()
    assert not await server.turns()


async def test_others_have_their_turn_while_the_loop_stays_awake(server: Server) -> None:
    server.ask()
    done = asyncio.create_task(asyncio.sleep(0.01))
    await asyncio.wait_for(done, 5)
    assert server.vigil.awake
