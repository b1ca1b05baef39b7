"""Compaction on every engine: the newest of each key is left, whoever writes meanwhile, and nobody is robbed.

What a fold keeps in general is a property test on memory (``tests/core/test_compaction.py``); here it is the engines'
part of it: ``expect=``, truncation, holders, marks.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from dynlog.compaction import compact
from dynlog.errors import OffsetConflict, OffsetTruncated, ProducerFenced
from dynlog.keeper import moved_from
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Mark, Record
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import PATIENCE_S, TOPIC, LogBackend, after_turns, bounds, record, stored

State = dict[bytes | None, tuple[int, bytes]]
"""By key: where its newest record was first stored, and its body."""


async def folded(log: Log) -> State:
    """The state of whoever begins to read now, as any reader sees it."""
    state: State = {}
    async with await Reader.open(log, TOPIC) as reader:
        end = (await bounds(log))[1]
        while reader.positions[0].offset < end:
            batch = await reader.next(PATIENCE_S)
            for item in batch or ():
                origin = moved_from(item.record.headers)
                if item.record.parts:
                    first = item.offset if origin is None else origin.offset
                    state[item.record.key] = (first, bytes(item.record.parts[0]))
                else:
                    state.pop(item.record.key, None)
    return state


async def rewrite(log: Log, keys: int, times: int) -> None:
    for turn in range(times):
        await log.append(TOPIC, 0, [record(f"{key}/{turn}", f"k{key}") for key in range(keys)])


class CompactionSuite(LogBackend):
    async def test_a_compacted_partition_holds_the_newest_of_each_key_and_folds_to_the_same(
        self, log: Log, log_url: str
    ) -> None:
        await log.create_topic(TOPIC, partitions=2)
        await rewrite(log, 30, 10)
        await log.append(TOPIC, 0, [Record(key=b"k7"), Record(key=b"k8")])
        await log.append(TOPIC, 1, [record("untouched", "k1"), record("untouched too", "k1")])
        before = await folded_partition(log)
        done = await compact(log, TOPIC)
        assert (done.done, done.records, done.moved, done.records_after) == (True, 302, 28, 28)
        assert await folded_partition(log) == before
        assert len(before) == 28
        async with open_log(log_url) as other:
            assert len(await stored(other)) == 28
            assert len(await stored(other, TOPIC, 1)) == 2
            assert (await bounds(other))[0] == done.earliest == 302

    async def test_a_reader_behind_is_told_and_one_that_holds_its_place_sees_every_tombstone(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        await rewrite(log, 5, 4)
        behind = await log.position(TOPIC, 0, 3)
        await log.hold(TOPIC, Holder("slow", HolderKind.NAMED, {0: 20}))
        await log.append(TOPIC, 0, [Record(key=b"k1"), record("new", "k2")])
        done = await compact(log, TOPIC)
        assert (done.blocked_by, done.earliest, done.moved) == (("slow",), 20, 3)
        with pytest.raises(OffsetTruncated):
            await log.read(behind)
        seen = await log.read(await log.position(TOPIC, 0, 20))
        assert [(item.offset, item.record.key, item.record.parts) for item in seen][:2] == [
            (20, b"k1", ()), (21, b"k2", (b"new",)),
        ]  # fmt: skip
        assert await folded(log) == {
            b"k0": (15, b"0/3"), b"k2": (21, b"new"), b"k3": (18, b"3/3"), b"k4": (19, b"4/3"),
        }  # fmt: skip

    async def test_what_others_append_while_it_runs_is_never_overtaken(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        await rewrite(log, 40, 5)
        written: dict[bytes | None, bytes] = {
            item.record.key: bytes(item.record.parts[0]) for item in await stored(log)
        }
        running = True

        async def writer(handle: Log, name: int) -> None:
            turn = 0
            while running:
                turn += 1
                key = f"k{(7 * turn + name) % 40}"
                if turn % 3 == 0:
                    with suppress(OffsetConflict):
                        await handle.append(TOPIC, 0, [record("a loser", key)], expect=turn)
                elif key.encode() != b"k0":
                    # Each writer has keys of its own, so that what it wrote last is what has to be there.
                    mine = f"{key}-{name}"
                    body = b"" if turn % 5 == 0 else b"%d/%d" % (name, turn)
                    parts = (body,) if body else ()
                    await handle.append(TOPIC, 0, [Record(key=mine.encode(), parts=parts)])
                    written[mine.encode()] = body
                await asyncio.sleep(0.01)  # a pace: a compaction gets through in pauses only

        async with open_log(log_url) as other:
            writers = [asyncio.create_task(writer((log, other)[n % 2], n)) for n in range(4)]
            try:
                for _ in range(3):
                    await compact(other, TOPIC, force=True)
            finally:
                running = False
                await asyncio.gather(*writers)
            expected = {key: body for key, body in written.items() if body}
            assert {key: body for key, (_, body) in (await folded(log)).items()} == expected
            await compact(log, TOPIC, force=True)
            assert {key: body for key, (_, body) in (await folded(other)).items()} == expected
        assert len(await stored(log)) <= 2 * len(expected)

    async def test_one_that_was_broken_off_anywhere_is_completed_by_the_next(self, log: Log) -> None:
        await log.create_topic(TOPIC)
        for turns in (0, 3, 7, 15, 31, 63, 127, 255):
            await rewrite(log, 20, 2)
            before = await folded(log)
            task = asyncio.create_task(compact(log, TOPIC, force=True))
            await after_turns(turns)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE_S)
            assert await folded(log) == before
        await compact(log, TOPIC, force=True)
        assert await folded(log) == before
        assert len(await stored(log)) == 20

    async def test_two_at_once_do_no_harm(self, log: Log, log_url: str) -> None:
        await log.create_topic(TOPIC)
        await rewrite(log, 50, 4)
        before = await folded(log)
        async with open_log(log_url) as other:
            await asyncio.gather(compact(log, TOPIC, force=True), compact(other, TOPIC, force=True))
        assert await folded(log) == before
        assert len(await stored(log)) <= 100

    @pytest.mark.parametrize("seed", range(3))
    async def test_repeats_zombies_and_losers_stay_what_they_were(self, log: Log, seed: int) -> None:
        await log.create_topic(TOPIC)
        chance = random.Random(seed)
        for turn in range(4):
            for number in range(25):
                key = b"k%d" % chance.randrange(6)
                parts = (b"%d/%d" % (turn, number),) if chance.random() < 0.8 else ()
                # In the last turn a compaction would come before the repeats that are still to come.
                mark = Mark(chance.choice("pq"), chance.randrange(1, 3), chance.randrange(12))
                item = Record(key=key, parts=parts, mark=mark if turn == 0 and chance.random() < 0.8 else None)
                with suppress(ProducerFenced, OffsetConflict):
                    await log.append(TOPIC, 0, [item], expect=0 if chance.random() < 0.1 else None)
            before = await folded(log)
            if chance.random() < 0.5:
                await log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: chance.randrange(*await bounds(log))}))
            await compact(log, TOPIC, force=True, repeats_s=0)
            assert await folded(log) == before
            await log.release(TOPIC, "h")
        await compact(log, TOPIC, force=True, repeats_s=0)
        assert await folded(log) == before
        assert len(await stored(log)) == len(before)


async def folded_partition(log: Log) -> State:
    """As `folded`, of the first of several partitions."""
    return {
        item.record.key: (
            origin.offset if (origin := moved_from(item.record.headers)) else item.offset,
            bytes(item.record.parts[0]),
        )
        for item in sorted(await stored(log), key=lambda item: item.offset)
        if item.record.parts and item.record.key not in (b"k7", b"k8")
    }
