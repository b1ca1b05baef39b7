"""Whoever waits for a member's own record to be folded goes on in the instant in which it is, without asking again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynlog.group_records import Join
from dynlog.membership import GroupTiming, Membership
from dynlog.open import open_log
from dynlog.timing import Deadline
from tests.conformance.backend import after_turns


@pytest.fixture
async def member() -> AsyncIterator[Membership]:
    """A member that has entered, and folds only when it is told to."""
    async with open_log("memory://") as log:
        member = Membership(log, await log.create_topic("t"), "g", "earliest", GroupTiming())
        await member.enter()
        yield member


async def test_it_goes_on_as_soon_as_the_record_is_folded(member: Membership) -> None:
    said = await member._say(Join("another", 1, "a test"))
    waiting = asyncio.create_task(member._folded(said + 1, Deadline(20)))
    await after_turns(3)
    assert not waiting.done()
    await member._fold_on(0)
    await after_turns(3)
    assert waiting.done()
    assert await waiting is True


async def test_a_record_that_changes_nothing_counts_too(member: Membership) -> None:
    join = Join("another", 1, "a test")
    await member._say(join)
    await member._fold_on(0)
    version, said = member.state.version, await member._say(join)
    waiting = asyncio.create_task(member._folded(said + 1, Deadline(20)))
    await after_turns(3)
    await member._fold_on(0)
    await after_turns(3)
    assert waiting.done()
    assert member.state.version == version


async def test_what_is_never_folded_is_waited_for_until_the_deadline(member: Membership) -> None:
    assert await member._folded(1_000, Deadline(0.02)) is False
    await member._fold_on(0)
    assert await member._folded(1, Deadline(0)) is True
