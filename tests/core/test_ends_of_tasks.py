"""Whoever ends a task waits for it, and a cancellation of himself that comes meanwhile is never lost."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.tasks import end_task, ended
from dynlog.waits import Waits
from tests.cancelling import cancelled_as_it_ends
from tests.conformance.backend import after_turns


async def forever() -> None:
    await asyncio.Event().wait()


async def running(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """The task, which has begun."""
    await after_turns(2)
    return task


async def test_a_task_has_ended_when_it_was_waited_for() -> None:
    task = await running(asyncio.create_task(forever()))
    await end_task(task)
    assert task.cancelled()
    await end_task(task)


async def test_a_cancellation_in_the_instant_in_which_the_task_ends_is_not_lost() -> None:
    task = await running(asyncio.create_task(forever()))
    await cancelled_as_it_ends(end_task(task), task)
    assert task.cancelled()


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_cancellation_that_comes_while_a_task_cleans_up_has_to_wait_and_is_not_lost(
    cancelled_first: bool,
) -> None:
    may_end, cleaned = asyncio.Event(), False

    async def work() -> None:
        nonlocal cleaned
        try:
            await forever()
        finally:
            await may_end.wait()
            cleaned = True

    task = await running(asyncio.create_task(work()))
    if cancelled_first:
        task.cancel()
    closer = asyncio.create_task(ended(task) if cancelled_first else end_task(task))
    for _ in range(2):
        await after_turns(3)
        closer.cancel()
    await after_turns(3)
    assert not closer.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await closer
    assert task.done()
    assert cleaned


async def test_a_time_limit_around_it_is_not_lost_either() -> None:
    async def work() -> None:
        try:
            await forever()
        finally:
            await after_turns(5)

    task = await running(asyncio.create_task(work()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await end_task(task)
    assert task.done()


async def test_what_the_task_failed_with_is_raised_and_is_the_cause_of_a_cancellation() -> None:
    async def work() -> None:
        try:
            await forever()
        finally:
            raise ValueError("it fails as it ends")

    with pytest.raises(ValueError, match="as it ends"):
        await end_task(await running(asyncio.create_task(work())))
    task = await running(asyncio.create_task(work()))
    closer = asyncio.create_task(end_task(task))
    task.add_done_callback(lambda _: closer.cancel())
    with pytest.raises(asyncio.CancelledError) as raised:
        await closer
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, ValueError):
        error = error.__cause__ or error.__context__
    assert isinstance(error, ValueError)


async def test_whoever_waits_for_what_ends_by_itself_is_not_told_of_its_failure() -> None:
    async def work() -> None:
        raise ValueError("nobody's business")

    await ended(asyncio.create_task(work()))


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_of_whoever_closes_a_store_is_not_lost_as_the_last_operation_ends(turns: int) -> None:
    waits = Waits("a store")
    with waits.operation():
        closer = asyncio.create_task(waits.close())
        await after_turns(3)
    await after_turns(turns)
    told = closer.cancel()
    await asyncio.wait([closer])
    assert closer.cancelled() is told
