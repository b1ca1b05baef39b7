"""A prompt resolves once, for one task, which goes on in the turn of the loop in which it was resolved."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from dynlog.prompt import Prompt, go_on

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


async def value_of(prompt: Prompt[int]) -> int:
    """For a task that waits for it and no more."""
    return await prompt


async def in_a_callback(what: Any) -> None:
    """Calls it as the loop calls what a connection brought: outside of every task."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        try:
            what()
        finally:
            done.set()

    loop.call_soon(call)
    await done.wait()


async def test_its_task_goes_on_before_go_on_returns_and_in_its_own_context() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())
    seen: list[object] = []

    async def waiter() -> None:
        where.set("in the task")
        seen.append((await prompt, where.get()))

    task = asyncio.create_task(waiter())
    await asyncio.sleep(0)

    def resolve() -> None:
        prompt.settle(7)
        settled: list[Prompt[Any]] = [prompt]
        go_on(settled)
        seen.append((settled, where.get()))

    await in_a_callback(resolve)
    await task
    assert seen == [(7, "in the task"), ([], "nowhere")]


async def test_inside_a_task_its_task_goes_on_when_the_loop_comes_round() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())
    task = asyncio.create_task(value_of(prompt))
    await asyncio.sleep(0)
    prompt.settle(1)
    go_on([prompt])
    assert not task.done()
    assert await task == 1


async def test_what_a_task_settles_as_it_goes_on_goes_on_too() -> None:
    loop = asyncio.get_running_loop()
    first: Prompt[int] = Prompt(loop)
    second: Prompt[int] = Prompt(loop)
    settled: list[Prompt[Any]] = [first]
    order: list[str] = []

    async def one() -> None:
        await first
        second.settle(2)
        settled.append(second)
        order.append("one")

    async def two() -> None:
        await second
        order.append("two")

    tasks = [asyncio.create_task(one()), asyncio.create_task(two())]
    await asyncio.sleep(0)

    def resolve() -> None:
        first.settle(1)
        go_on(settled)
        order.append("returned")

    await in_a_callback(resolve)
    await asyncio.gather(*tasks)
    assert order == ["one", "two", "returned"]


async def test_one_that_is_resolved_before_anybody_waits_is_not_waited_for() -> None:
    prompt: Prompt[str] = Prompt(asyncio.get_running_loop())
    prompt.set_result("there")
    assert await prompt == "there"
    assert prompt.done()
    assert not prompt.cancelled()
    assert prompt.exception() is None


async def test_whoever_waits_gets_the_error_it_failed_with() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())
    asyncio.get_running_loop().call_soon(prompt.set_exception, ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await prompt
    assert isinstance(prompt.exception(), ValueError)


async def test_a_task_that_is_cancelled_leaves_it_cancelled_and_nothing_resolves_it_any_more() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())
    task = asyncio.create_task(value_of(prompt))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert prompt.cancelled()
    assert not prompt.cancel()
    with pytest.raises(asyncio.InvalidStateError):
        prompt.settle(1)
    with pytest.raises(asyncio.InvalidStateError):
        prompt.set_exception(ValueError())


async def test_a_cancellation_after_it_was_settled_is_not_lost() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())

    async def waiter() -> None:
        await prompt
        await asyncio.sleep(3600)

    task = asyncio.create_task(waiter())
    await asyncio.sleep(0)
    prompt.settle(1)
    task.cancel()
    go_on([prompt])
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_works_with_a_time_limit_and_with_gather() -> None:
    loop = asyncio.get_running_loop()
    prompt: Prompt[int] = Prompt(loop)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await prompt
    others: list[Prompt[int]] = [Prompt(loop), Prompt(loop)]
    for number, other in enumerate(others):
        loop.call_soon(other.set_result, number)
    assert await asyncio.gather(*others) == [0, 1]


async def test_everyone_who_waits_for_it_goes_on() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())
    tasks = [asyncio.create_task(value_of(prompt)) for _ in range(3)]
    await asyncio.sleep(0)

    def resolve() -> None:
        prompt.settle(3)
        go_on([prompt])

    await in_a_callback(resolve)
    assert await asyncio.gather(*tasks) == [3, 3, 3]


async def test_callbacks_are_called_and_can_be_taken_away() -> None:
    prompt: Prompt[int] = Prompt(asyncio.get_running_loop())
    called = asyncio.Event()

    def callback(of: Prompt[int]) -> None:
        called.set()

    prompt.add_done_callback(callback)
    prompt.add_done_callback(callback)
    assert prompt.remove_done_callback(callback) == 2
    assert prompt.remove_done_callback(callback) == 0
    prompt.set_result(1)
    prompt.add_done_callback(callback)  # it is resolved already
    await called.wait()


async def test_a_task_that_ends_the_program_does_not_keep_the_others_from_going_on() -> None:
    loop = asyncio.get_running_loop()
    prompts: list[Prompt[Any]] = [Prompt(loop), Prompt(loop)]

    async def quits() -> None:
        await prompts[0]
        raise KeyboardInterrupt

    quitting, waiting = asyncio.create_task(quits()), asyncio.create_task(value_of(prompts[1]))
    await asyncio.sleep(0)
    settled = list(prompts)

    def resolve() -> None:
        for prompt in prompts:
            prompt.settle(5)
        with pytest.raises(KeyboardInterrupt):
            go_on(settled)

    await in_a_callback(resolve)
    assert await waiting == 5
    with pytest.raises(KeyboardInterrupt):
        quitting.result()


def test_what_is_not_resolved_has_no_result() -> None:
    prompt: Prompt[int] = Prompt(asyncio.new_event_loop())
    with pytest.raises(asyncio.InvalidStateError):
        prompt.result()
    prompt.get_loop().close()
