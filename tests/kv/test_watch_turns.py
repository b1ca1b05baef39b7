"""A watcher of many keys leaves the event loop to others, sees one revision all the same, and loses nothing."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.kv import Bucket, Changed, Present, Ready
from dynlog.kv.table import FEW
from dynlog.kv.watch import STEP, Event

KEYS = [f"k{number:05d}" for number in range(2 * FEW)]


@pytest.fixture
async def bucket(bucket: Bucket) -> Bucket:
    await asyncio.gather(*(bucket.put(key, b"old") for key in KEYS))
    return bucket


async def count_turns(turns: list[int]) -> None:
    while True:
        turns[0] += 1
        await asyncio.sleep(0)


async def test_a_watcher_of_many_keys_leaves_others_their_turn(bucket: Bucket) -> None:
    turns = [0]
    other = asyncio.create_task(count_turns(turns))
    async with bucket.watch() as watch:
        async for event in watch:
            if isinstance(event, Ready):
                break
    other.cancel()
    assert turns[0] >= len(KEYS) // STEP


async def test_listing_many_keys_leaves_others_their_turn_and_is_as_of_one_revision(bucket: Bucket) -> None:
    turns = [0]
    other = asyncio.create_task(count_turns(turns))
    await bucket.entries()
    other.cancel()
    assert turns[0] > 2
    listing = asyncio.create_task(bucket.entries())
    await asyncio.sleep(0)
    await bucket.put(KEYS[-1], b"new")
    await bucket.delete(KEYS[-2])
    entries = await listing
    assert [entry.key for entry in entries] == KEYS
    assert {entry.value for entry in entries} == {b"old"}


@pytest.mark.parametrize("prefix", ["", "k00"])
async def test_the_state_is_that_of_the_revision_it_names_however_late_it_is_read(bucket: Bucket, prefix: str) -> None:
    wanted = [key for key in KEYS if key.startswith(prefix)]
    async with bucket.watch(prefix=prefix) as watch:
        await bucket.put(wanted[-1], b"new")
        await bucket.delete(wanted[0])
        await bucket.put(prefix + "zz", b"new")
        events: list[Event] = []
        while (event := await watch.next(0)) is not None:
            events.append(event)
    at = len(wanted)
    assert [event.entry.key for event in events[:at] if isinstance(event, Present)] == wanted
    assert {event.entry.value for event in events[:at] if isinstance(event, Present)} == {b"old"}
    assert events[at] == Ready(len(KEYS) - 1)
    changed = [event.entry.key for event in events[at + 1 :] if isinstance(event, Changed)]
    assert changed == [wanted[-1], wanted[0], prefix + "zz"]


async def test_a_call_that_is_cancelled_while_others_have_their_turn_loses_nothing(bucket: Bucket) -> None:
    keys: list[str] = []
    async with bucket.watch() as watch:
        while True:
            call = asyncio.create_task(watch.next())
            await asyncio.sleep(0)
            if not call.done():  # it gives others their turn
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                continue
            event = call.result()
            if isinstance(event, Ready):
                break
            assert isinstance(event, Present)
            keys.append(event.entry.key)
    assert keys == KEYS
