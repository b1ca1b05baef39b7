"""Closing and cancelling: nothing is left behind, and whoever waited is told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from dynlog.errors import Closed
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import (
    PATIENCE_S,
    TOPIC,
    LogBackend,
    after_turns,
    bodies,
    bounds,
    eventually,
    fill,
    marked,
    numbered,
    record,
    records,
)
from tests.conformance.every_call import ALL_CALLS
from tests.conformance.possessions import possessions


class ClosingSuite(LogBackend):
    @pytest.mark.parametrize("call", ALL_CALLS)
    async def test_every_call_after_closing_raises_closed(self, log: Log, call: str) -> None:
        await fill(log, 1)
        await log.close()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Closed):
                await ALL_CALLS[call](log, TOPIC)

    async def test_closing_twice_or_at_once_is_harmless(self, log: Log) -> None:
        await asyncio.gather(log.close(), log.close())
        await log.close()

    async def test_closing_one_handle_leaves_the_other_open(self, log: Log, log_url: str) -> None:
        async with open_log(log_url) as other:
            await fill(other, 2)
        assert await bodies(log) == ["r0", "r1"]
        assert (await log.append(TOPIC, 0, records("r2"))).offsets == (2,)

    async def test_closing_completes_appends_under_way(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        async with open_log(log_url) as other:
            appends = [asyncio.create_task(other.append(TOPIC, 0, records(f"{n}", f"{n}'"))) for n in range(30)]
            await after_turns(3)
            await other.close()
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
        found = await bodies(log)
        assert outcomes
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, Closed)
            else:
                assert [found[offset] for offset in outcome.offsets] == [f"{number}", f"{number}'"]
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) > 0

    async def test_a_closed_log_leaves_no_task_thread_or_file_behind(self, log_url: str) -> None:
        async def use() -> None:
            async with open_log(log_url) as log, open_log(log_url) as other:
                await log.create_topic(TOPIC, exist_ok=True)
                await log.append(TOPIC, 0, numbered(3))
                await asyncio.gather(*(bodies(handle) for handle in (log, other) for _ in range(10)))
                end = await log.position(TOPIC, 0, "end")
                reads = [asyncio.create_task(log.read(end, wait=PATIENCE_S)) for _ in range(10)]
                await after_turns(5)
                await other.append(TOPIC, 0, numbered(3))
                await asyncio.gather(*reads)
                await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 0}))
                waiting = asyncio.create_task(log.read(await log.position(TOPIC, 0, "end"), wait=PATIENCE_S))
                await after_turns(5)
            with pytest.raises(Closed):
                await waiting

        await use()  # what a first use loads and keeps for ever is not meant
        before = possessions()
        for _ in range(4):
            await use()

        async def no_more_than_before() -> bool:
            return all(now <= then for now, then in zip(possessions(), before, strict=True))

        await eventually(no_more_than_before, f"tasks, threads, files back at {before}")

    async def test_an_open_that_is_cancelled_leaves_nothing_behind(self, log_url: str) -> None:
        async def open_and_close() -> None:
            async with open_log(log_url):
                pass

        await open_and_close()
        before = possessions()
        for turns in range(12):
            await _cancelled_after(turns, open_and_close())

        async def no_more_than_before() -> bool:
            return all(now <= then for now, then in zip(possessions(), before, strict=True))

        await eventually(no_more_than_before, f"tasks, threads, files back at {before}")


class CancellationSuite(LogBackend):
    async def test_a_cancelled_append_is_stored_whole_or_not_at_all_and_may_be_repeated(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        expected: list[str] = []
        for turns in range(25):
            again = marked("p", 1, 3 * turns, *(f"{turns}/{i}" for i in range(3)))
            await _cancelled_after(turns // 2, log.append(TOPIC, 0, again))
            if log.capabilities.checks_marks:
                assert (await bounds(log))[1] in (3 * turns, 3 * turns + 3)
            await log.append(TOPIC, 0, again)
            expected += [f"{turns}/{i}" for i in range(3)]
        if log.capabilities.checks_marks:
            assert await bodies(log) == expected

    async def test_cancelled_appends_among_others_disturb_none_of_them(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        tasks = [asyncio.create_task(log.append(TOPIC, 0, records(f"{n}", f"{n}'"))) for n in range(60)]
        await after_turns(2)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [outcome for number, outcome in enumerate(outcomes) if number % 3]
        assert not any(isinstance(outcome, BaseException) for outcome in kept)
        found = await bodies(log)
        assert [(first + "'") for first in found[::2]] == found[1::2]
        assert {f"{n}" for n in range(60) if n % 3} <= set(found)
        assert len(set(found)) == len(found)

    async def test_a_cancelled_waiting_read_leaves_the_log_usable_and_no_task_behind(self, log: Log) -> None:
        await fill(log, 1)
        position = await log.position(TOPIC, 0, "end")
        tasks = len(asyncio.all_tasks())
        for turns in range(15):
            await _cancelled_after(turns, log.read(position, wait=PATIENCE_S))

        async def no_more_than_before() -> bool:
            return len(asyncio.all_tasks()) <= tasks

        await eventually(no_more_than_before, f"{tasks} tasks again")  # what a client does by itself may come and go
        reading = asyncio.create_task(log.read(position, wait=PATIENCE_S))
        await after_turns(3)
        await log.append(TOPIC, 0, [record("new")])
        async with asyncio.timeout(PATIENCE_S / 2):
            assert [item.record.parts for item in await reading] == [(b"new",)]

    @pytest.mark.parametrize("call", sorted(set(ALL_CALLS) - {"delete_topic"}))
    async def test_every_call_may_be_cancelled_at_any_moment(self, log: Log, call: str) -> None:
        await fill(log, 2)
        for turns in range(8):
            await _cancelled_after(turns, ALL_CALLS[call](log, TOPIC))
        end = (await bounds(log))[1]
        assert (await log.append(TOPIC, 0, records("still usable"))).offsets[0] >= end
        assert (await bodies(log))[-1] == "still usable"


async def _cancelled_after(turns: int, call: Coroutine[Any, Any, Any] | Any) -> None:
    """Starts the call and cancels it after some turns of the loop; it may have been done, or failed, before."""
    task: asyncio.Task[Any] = asyncio.ensure_future(call)
    await after_turns(turns)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.done(), "a cancelled call goes on"
    if not task.cancelled():
        task.exception()
