"""Incarnations: what names the incarnation that it means is done to that one or not at all, never to its successor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from dynlog.errors import TopicNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import PATIENCE_S, TOPIC, LogBackend, bodies, bounds, fill, marked, numbered, records

Call = Callable[[Log, str], Awaitable[Any]]

HELD = Holder("h", HolderKind.NAMED, {0: 1})
CALLS: dict[str, Call] = {
    "append": lambda log, meant: log.append(TOPIC, 0, records("x"), incarnation=meant),
    "append_marked": lambda log, meant: log.append(TOPIC, 0, marked("p", 1, 0, "x", "y"), incarnation=meant),
    "append_at_the_end": lambda log, meant: log.append(TOPIC, 0, records("x"), expect=3, incarnation=meant),
    "append_elsewhere": lambda log, meant: log.append(TOPIC, 0, records("x"), expect=9, incarnation=meant),
    "truncate": lambda log, meant: log.truncate(TOPIC, 0, 2, incarnation=meant),
    "truncate_by_force": lambda log, meant: log.truncate(TOPIC, 0, 2, force=True, incarnation=meant),
    "truncate_beyond_the_end": lambda log, meant: log.truncate(TOPIC, 0, 9, incarnation=meant),
    "hold": lambda log, meant: log.hold(TOPIC, HELD, incarnation=meant),
}
"""Each would change, or refuse for another reason, a topic of three records."""

ACQUAINTANCES: dict[str, Call | None] = {
    "never_saw_it": None,
    "had_appended": lambda log, _: log.append(TOPIC, 0, records("before")),
    "had_appended_to_that_incarnation": CALLS["append"],
    "had_held_and_truncated": lambda log, meant: asyncio.gather(
        CALLS["hold"](log, meant), CALLS["truncate"](log, meant)
    ),
}
"""What a handle did to the topic before that was deleted and created anew through another one."""


async def incarnation_of(log: Log) -> str:
    return (await log.topic(TOPIC)).incarnation


async def replace(log: Log, count: int) -> str:
    """Deletes the topic and creates it anew with ``n0, n1, ...``; its incarnation."""
    await log.delete_topic(TOPIC)
    await log.create_topic(TOPIC)
    if count:
        await log.append(TOPIC, 0, numbered(count, "n"))
    return await incarnation_of(log)


async def assert_refused(call: Call, log: Log, meant: str) -> None:
    with pytest.raises(TopicNotFound, match="the topic was deleted and created anew") as caught:
        await call(log, meant)
    assert caught.value.topic == TOPIC
    assert TOPIC in str(caught.value)


async def assert_untouched(log: Log) -> None:
    """The topic is as `replace` left it with three records."""
    assert await bodies(log) == ["n0", "n1", "n2"]
    assert await bounds(log) == (0, 3)
    assert await log.holders(TOPIC) == []
    assert await log.events(TOPIC) == []


class IncarnationsSuite(LogBackend):
    async def test_append_truncate_and_hold_are_done_to_the_incarnation_that_they_name(self, log: Log) -> None:
        await fill(log, 3)
        meant = await incarnation_of(log)
        assert (await log.append(TOPIC, 0, records("a"), incarnation=meant)).offsets == (3,)
        assert (await log.append(TOPIC, 0, records("b"), expect=4, incarnation=meant)).offsets == (4,)
        await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 2}), incarnation=meant)
        assert [state.holder.name for state in await log.holders(TOPIC)] == ["h"]
        truncation = await log.truncate(TOPIC, 0, 4, incarnation=meant)
        assert (truncation.earliest, truncation.blocked_by) == (2, ("h",))
        assert (await log.truncate(TOPIC, 0, 4, force=True, incarnation=meant)).earliest == 4
        assert await bodies(log) == ["b"]

    @pytest.mark.parametrize("call", CALLS)
    async def test_with_the_incarnation_of_a_topic_that_was_recreated_nothing_is_done(
        self, log: Log, call: str
    ) -> None:
        await fill(log, 3)
        gone = await incarnation_of(log)
        await replace(log, 3)
        for _ in range(2):
            await assert_refused(CALLS[call], log, gone)
        await assert_untouched(log)

    @pytest.mark.parametrize("before", ACQUAINTANCES)
    @pytest.mark.parametrize("call", CALLS)
    async def test_nor_is_it_where_another_handle_deleted_and_recreated_it(
        self, log: Log, log_url: str, call: str, before: str
    ) -> None:
        await fill(log, 3)
        gone, acquaint = await incarnation_of(log), ACQUAINTANCES[before]
        async with open_log(log_url) as other:
            if acquaint is not None:
                await acquaint(other, gone)
            await replace(log, 3)
            for _ in range(2):
                await assert_refused(CALLS[call], other, gone)
            await assert_untouched(log)
            await assert_untouched(other)

    async def test_a_recreated_topic_stays_empty(self, log: Log, log_url: str) -> None:
        await fill(log, 3)
        gone = await incarnation_of(log)
        async with open_log(log_url) as other:
            await other.append(TOPIC, 0, records("before"), incarnation=gone)
            await replace(log, 0)
            for expect in (None, 0):
                with pytest.raises(TopicNotFound):
                    await other.append(TOPIC, 0, records("x"), expect=expect, incarnation=gone)
        assert await bounds(log) == (0, 0)

    @pytest.mark.parametrize("call", ["append", "append_at_the_end", "truncate", "hold"])
    async def test_a_handle_that_remembers_the_old_one_finds_the_new_one_that_is_named(
        self, log: Log, log_url: str, call: str
    ) -> None:
        await fill(log, 3)
        async with open_log(log_url) as other:
            await other.append(TOPIC, 0, records("before"))
            new = await replace(log, 3)
            await CALLS[call](other, new)
            assert (await other.append(TOPIC, 0, records("after"))).offsets[0] >= 3
        assert (await bodies(log))[-1] == "after"

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_topic_that_was_deleted_and_not_recreated_is_not_found(
        self, log: Log, log_url: str, call: str
    ) -> None:
        await fill(log, 3)
        gone = await incarnation_of(log)
        async with open_log(log_url) as other:
            await other.append(TOPIC, 0, records("before"))
            await log.delete_topic(TOPIC)
            for handle in (log, other):
                with pytest.raises(TopicNotFound, match=TOPIC):
                    await CALLS[call](handle, gone)
        assert await log.topics() == []

    async def test_a_refused_append_leaves_no_mark(self, log: Log) -> None:
        await fill(log, 3)
        gone = await incarnation_of(log)
        new = await replace(log, 0)
        await assert_refused(CALLS["append_marked"], log, gone)
        appended = await log.append(TOPIC, 0, marked("p", 1, 0, "x", "y"), incarnation=new)
        assert (appended.offsets, appended.duplicates) == ((0, 1), 0)

    async def test_appends_at_once_for_different_incarnations_are_not_confused(self, log: Log, log_url: str) -> None:
        await fill(log, 3)
        gone = await incarnation_of(log)
        async with open_log(log_url) as other:
            await other.append(TOPIC, 0, records("before"))
            new = await replace(log, 0)
            meant = [(None, gone, new)[number % 3] for number in range(30)]
            outcomes = await asyncio.gather(
                *(
                    other.append(TOPIC, 0, records(f"x{number}"), incarnation=incarnation)
                    for number, incarnation in enumerate(meant)
                ),
                return_exceptions=True,
            )
        refused = [isinstance(outcome, TopicNotFound) for outcome in outcomes]
        assert refused == [incarnation == gone for incarnation in meant], outcomes
        kept = [f"x{number}" for number, incarnation in enumerate(meant) if incarnation != gone]
        assert sorted(await bodies(log)) == sorted(kept)

    async def test_what_is_appended_while_the_topic_is_recreated_never_comes_into_the_successor(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        gone, begun = await incarnation_of(log), asyncio.Event()

        async def append_on(handle: Log) -> None:
            with suppress(TopicNotFound):
                while True:
                    await handle.append(TOPIC, 0, records("x"), incarnation=gone)
                    begun.set()

        async with open_log(log_url) as other, asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for handle in (log, other):
                for _ in range(4):
                    group.create_task(append_on(handle))
            await begun.wait()
            await replace(log, 0)
        assert await bounds(log) == (0, 0)
