"""One request to all of a collection, beside what the manager suite says of it: deadlines, bounds, moments."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.call_errors import NotSent
from dynlog.entity import DynamoEntityID
from dynlog.errors import DeadlineExceeded
from dynlog.network.broadcast import AT_ONCE, broadcast
from dynlog.network.hierarchy import Member
from dynlog.network.registry import LocalRegistry
from dynlog.record import Buffer
from dynlog.timing import Deadline

FLEET = DynamoEntityID.collection("fleet")


async def fleet(size: int) -> LocalRegistry:
    registry = LocalRegistry()
    for number in range(size):
        await registry.join(Member(DynamoEntityID.from_name(f"i{number}"), (FLEET,)))
    return registry


async def test_of_many_members_only_so_many_are_asked_at_once_and_each_once() -> None:
    registry = await fleet(AT_ONCE + 50)
    asked: list[DynamoEntityID] = []
    now = most = 0

    async def ask(member: Member, left: float) -> Buffer:
        nonlocal now, most
        asked.append(member.entity)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return b"x"

    gathered = await broadcast(registry, FLEET, Deadline(5.0), ask)
    assert most == AT_ONCE
    assert len(asked) == len(set(asked)) == len(gathered.replies) == AT_ONCE + 50


async def test_all_have_the_same_end_and_who_never_had_a_turn_is_named() -> None:
    registry = await fleet(AT_ONCE + 1)
    lefts: list[float] = []

    async def ask(member: Member, left: float) -> Buffer:
        lefts.append(left)
        await asyncio.sleep(left)
        raise DeadlineExceeded(f"{member.entity} did not answer")

    gathered = await broadcast(registry, FLEET, Deadline(0.05), ask)
    assert len(lefts) == AT_ONCE
    assert max(lefts) <= 0.05
    assert len(gathered.missing) == AT_ONCE + 1
    assert sum("was not asked" in str(error) for error in gathered.missing.values()) == 1


async def test_who_joins_or_leaves_while_it_runs_changes_nothing_of_whom_it_is_for() -> None:
    registry = await fleet(3)
    offset = registry.view.offset

    async def ask(member: Member, left: float) -> Buffer:
        await registry.join(Member(DynamoEntityID.random(), (FLEET,)))
        if member.entity == DynamoEntityID.from_name("i0"):
            raise NotSent("gone")
        return b"x"

    gathered = await broadcast(registry, FLEET, Deadline(5.0), ask)
    assert gathered.view_offset == offset
    assert set(gathered.replies) == {DynamoEntityID.from_name("i1"), DynamoEntityID.from_name("i2")}
    assert set(gathered.missing) == {DynamoEntityID.from_name("i0")}


async def test_a_defect_of_whoever_asks_ends_it_and_leaves_no_task() -> None:
    registry = await fleet(5)
    before = asyncio.all_tasks()

    async def ask(member: Member, left: float) -> Buffer:
        if member.entity == DynamoEntityID.from_name("i3"):
            raise ZeroDivisionError
        await asyncio.sleep(60)
        return b""

    with pytest.raises(ExceptionGroup) as caught:
        await broadcast(registry, FLEET, Deadline(5.0), ask)
    assert caught.group_contains(ZeroDivisionError)
    assert asyncio.all_tasks() == before
