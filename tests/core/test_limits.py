"""Time limits that share a timer: each wait ends in its time, and nobody else's does with it."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import DeadlineExceeded
from dynlog.limits import Limits


def late() -> DeadlineExceeded:
    return DeadlineExceeded("late")


async def test_each_wait_ends_in_its_own_time_in_whatever_order_they_began() -> None:
    loop, limits = asyncio.get_running_loop(), Limits()
    now = loop.time()
    ended: list[int] = []
    futures: list[asyncio.Future[None]] = []
    for number, after in enumerate((0.09, 0.03, 0.06)):
        future: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda _, number=number: ended.append(number))  # type: ignore[misc]
        limits.begin(future, now + after, late)
        futures.append(future)
    async with asyncio.timeout(5):
        found = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(error, DeadlineExceeded) for error in found)
    assert ended == [1, 2, 0]
    assert loop.time() >= now + 0.09
    limits.close()


async def test_a_time_that_is_over_already_ends_the_wait() -> None:
    loop, limits = asyncio.get_running_loop(), Limits()
    future: asyncio.Future[None] = loop.create_future()
    limits.begin(future, loop.time() - 1, late)
    async with asyncio.timeout(5):
        with pytest.raises(DeadlineExceeded):
            await future
    limits.close()


async def test_a_wait_that_ended_keeps_its_result_when_its_time_comes() -> None:
    loop, limits = asyncio.get_running_loop(), Limits()
    done: asyncio.Future[int] = loop.create_future()
    left: asyncio.Future[int] = loop.create_future()
    later: asyncio.Future[int] = loop.create_future()
    limits.begin(done, loop.time() + 0.01, late)
    limits.begin(left, loop.time() + 0.01, late)
    limits.begin(later, loop.time() + 0.02, late)
    done.set_result(7)
    limits.end(left)
    async with asyncio.timeout(5):
        with pytest.raises(DeadlineExceeded):
            await later
    assert done.result() == 7
    assert not left.done()
    limits.close()


async def test_nothing_comes_after_closing() -> None:
    loop, limits = asyncio.get_running_loop(), Limits()
    future: asyncio.Future[None] = loop.create_future()
    limits.begin(future, loop.time(), late)
    limits.close()
    passed: asyncio.Future[None] = loop.create_future()
    loop.call_at(loop.time() + 0.01, passed.set_result, None)
    await passed
    assert not future.done()
