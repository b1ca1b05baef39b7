"""How long ago a record was marked is the log's to say: the clock of whoever compacts it may be wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dynlog.batch import Position
from dynlog.compaction import REPEATS_S, compact
from dynlog.dedupe import DedupeTable
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.timing import SYSTEM_CLOCK, ManualClock

TOPIC = "t"
HOUR_S = 3_600.0


@asynccontextmanager
async def opened(ahead_s: float) -> AsyncIterator[tuple[Log, ManualClock]]:
    """A log that leaves marks to its readers, and its clock: so far is this machine's ahead of it."""
    clock = ManualClock(SYSTEM_CLOCK.time_ms() - round(ahead_s * 1000))
    async with open_log("memory://?checks_marks=false", clock=clock) as log:
        await log.create_topic(TOPIC)
        yield log, clock


def marked(sequence: int, body: str = "") -> Record:
    return Record(key=b"k", parts=(body.encode(),) if body else (), mark=Mark("p", 1, sequence))


async def newcomer(log: Log) -> bytes | None:
    """The key's value for whoever begins to read now."""
    state, table = (await log.partitions(TOPIC))[0], DedupeTable()
    batch = table.filter(await log.read(Position(TOPIC, (await log.topic(TOPIC)).incarnation, 0, state.earliest)))
    values = [bytes(stored.record.parts[0]) if stored.record.parts else None for stored in batch]
    return values[-1] if values else None


async def test_a_clock_that_jumped_ahead_parts_no_record_from_a_repeat_that_is_still_under_way() -> None:
    async with opened(HOUR_S) as (log, clock):
        first = marked(0, "first")
        await log.append(TOPIC, 0, [first, marked(1, "second")])
        clock.advance(REPEATS_S - 1)
        done = await compact(log, TOPIC, force=True)
        assert (done.done, done.repeats, done.earliest) == (False, True, 0)
        await log.append(TOPIC, 0, [first])  # its acknowledgement was lost
        assert await newcomer(log) == b"second"


async def test_a_log_in_which_nothing_but_tombstones_is_left_waits_for_a_later_record_to_show_the_time() -> None:
    async with opened(HOUR_S) as (log, clock):
        await log.append(TOPIC, 0, [marked(0, "first"), marked(1)])
        clock.advance(REPEATS_S + 1)
        assert (await compact(log, TOPIC, force=True)).done is False
        await log.append(TOPIC, 0, [marked(2, "third")])
        done = await compact(log, TOPIC, force=True)
        assert (done.done, done.earliest, await newcomer(log)) == (True, 2, b"third")


async def test_a_log_that_lies_idle_is_compacted_once_its_own_clock_says_that_it_is_time() -> None:
    async with opened(HOUR_S) as (log, clock):
        await log.append(TOPIC, 0, [marked(0, "first"), marked(1, "second")])
        clock.advance(REPEATS_S + 1)
        done = await compact(log, TOPIC, force=True)
        assert (done.done, done.repeats, done.earliest, await newcomer(log)) == (True, False, 2, b"second")


async def test_a_clock_that_fell_behind_holds_nothing_up() -> None:
    async with opened(-HOUR_S) as (log, clock):
        await log.append(TOPIC, 0, [marked(0, "first"), marked(1, "second")])
        clock.advance(REPEATS_S + 1)
        await log.append(TOPIC, 0, [Record(key=b"k", parts=(b"third",))])
        done = await compact(log, TOPIC, force=True)
        assert (done.done, done.repeats, await newcomer(log)) == (True, False, b"third")
