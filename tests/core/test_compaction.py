"""fold(compact(log)) == fold(log): whatever was written, by whom, in between what, and wherever the compactor died."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.batch import Batch, Position
from dynlog.compaction import compact
from dynlog.dedupe import DedupeTable
from dynlog.errors import OffsetConflict, ProducerFenced
from dynlog.keeper import MOVED, MOVED_TIME, moved_from
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Control, Mark, Record
from dynlog.topics import Holder, HolderKind

TOPIC = "t"
Seen = tuple[int, tuple[bytes, ...], dict[str, bytes], Control | None, int]
"""What a fold knows of a key: where its newest record was first stored, and all that the record says."""


class Killed(Exception):
    """Stands for SIGKILL: nothing of what would follow happens."""


def seen(offset: int, record: Record) -> Seen:
    origin = moved_from(record.headers)
    headers = {name: value for name, value in record.headers.items() if name not in (MOVED, MOVED_TIME)}
    first = offset if origin is None else origin.offset
    return first, tuple(bytes(part) for part in record.parts), headers, record.control, record.timestamp_ms


@dataclass
class Fold:
    """The newest record of each key, the way any reader sees it; independent of `KeyedLatest`.

    The oracle passes over what was moved: it folds what people wrote, and nothing that a compactor did.
    """

    oracle: bool = False
    known: dict[bytes, Seen] = field(default_factory=dict)
    table: DedupeTable = field(default_factory=DedupeTable)
    at: int = 0

    async def follow(self, log: Log) -> None:
        position = Position(TOPIC, (await log.topic(TOPIC)).incarnation, 0, self.at)
        while True:
            batch = await log.read(position)
            kept: Batch = batch if log.capabilities.checks_marks else self.table.filter(batch)
            for item in kept:
                assert item.record.key is not None
                if self.oracle and moved_from(item.record.headers):
                    continue
                if item.record.parts:
                    self.known[item.record.key] = seen(item.offset, item.record)
                else:
                    self.known.pop(item.record.key, None)
            position, self.at = batch.next_position, batch.next_offset
            if batch.next_offset == batch.end_offset:
                return


async def folded(log: Log) -> dict[bytes, Seen]:
    """The state of whoever begins to read now."""
    fold = Fold(at=(await log.partitions(TOPIC))[0].earliest)
    await fold.follow(log)
    return fold.known


# What goes on in a log


KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
MARKS = st.none() | st.builds(Mark, st.sampled_from(["p", "q"]), st.integers(1, 2), st.integers(0, 5))
WRITES = st.lists(st.tuples(KEYS, st.booleans(), MARKS), min_size=1, max_size=4)
NUMBERS = itertools.count()


@dataclass
class Step:
    """What happens before the compactor's next call, or instead of it."""

    writes: list[tuple[bytes, bool, Mark | None]]
    loser: bool = False
    holds: int | None = None
    released: bool = False
    truncates: bool = False
    kills: bool = False
    unsaid: bool = False


QUIET = Step([])
STEPS = st.builds(
    Step,
    writes=st.just([]) | WRITES,
    loser=st.booleans(),
    holds=st.none() | st.integers(0, 30),
    released=st.booleans(),
    truncates=st.sampled_from([False] * 9 + [True]),
    kills=st.sampled_from([False] * 5 + [True]),
    unsaid=st.sampled_from([False] * 5 + [True]),
)


class World:
    """A log, everything that was ever appended to it as a reader sees it, and what happens between two calls."""

    def __init__(self, log: Log, steps: Iterator[Step]) -> None:
        self.log = log
        self._steps = steps
        self.whole = Fold(oracle=True)
        self.late = False
        """Whether a repeat would come later than a compaction without the engine's checking allows for."""

    async def write(self, writes: list[tuple[bytes, bool, Mark | None]], expect: int | None = None) -> None:
        for key, there, mark in writes:
            number = next(NUMBERS)
            record = Record(
                parts=(b"%d" % number, b"x" * (number % 40)) if there else (),
                key=key,
                headers={"h": b"%d" % number} if number % 3 else {},
                control=Control.DATA if number % 5 == 0 else None,
                timestamp_ms=number,
                mark=mark,
            )
            with suppress(ProducerFenced, OffsetConflict):
                await self.log.append(TOPIC, 0, [record], expect=expect)
        await self.whole.follow(self.log)

    async def happens(self, call: str) -> Step:
        """The next step; the state as seen by who reads everything is always up to date behind it."""
        step = next(self._steps, QUIET)
        self.late = self.late or call == "truncate"
        if not self.log.capabilities.checks_marks and (self.late or call not in ("read", "append")):
            step = replace(step, writes=[(key, there, None) for key, there, _ in step.writes], holds=None)
        await self.write(step.writes)
        if step.loser:
            await self.write([(b"a", True, None), (b"zz", True, None)], expect=0)
        state = (await self.log.partitions(TOPIC))[0]
        if step.holds is not None:
            await self.log.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: max(state.end - step.holds, state.earliest)}))
        if step.released:
            await self.log.release(TOPIC, "h")
        return step


class Interrupted:
    """The compactor's log: before each call something happens, and after it the compactor may be dead."""

    def __init__(self, log: Log, world: World) -> None:
        self._log = log
        self._world = world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._log, name)
        if name not in ("read", "append", "truncate", "partitions", "holders", "topic"):
            return found

        async def call(*args: Any, **options: Any) -> Any:
            step = await self._world.happens(name)
            if step.kills and not step.unsaid:
                raise Killed
            if step.truncates and name == "read":  # another compactor is ahead of this one
                await compact(self._log, TOPIC, force=True, repeats_s=0)
                self._world.late = True
            result = await found(*args, **options)
            await self._world.whole.follow(self._log)
            if step.kills:  # it was done, and nobody hears of it
                raise Killed
            return result

        return call


@asynccontextmanager
async def opened(checks_marks: bool) -> AsyncIterator[Log]:
    async with open_log(f"memory://{uuid4().hex}?checks_marks={str(checks_marks).lower()}") as log:
        await log.create_topic(TOPIC)
        yield log


@settings(max_examples=200, deadline=None)
@given(checks_marks=st.booleans(), before=st.lists(WRITES, max_size=12), steps=st.lists(STEPS, max_size=40))
def test_a_fold_of_the_compacted_log_is_the_fold_of_the_whole_log(
    checks_marks: bool, before: list[list[tuple[bytes, bool, Mark | None]]], steps: list[Step]
) -> None:
    async def run() -> None:
        async with opened(checks_marks) as log:
            world = World(log, iter(steps))
            for writes in before:
                await world.write(writes)
            interrupted = cast(Log, Interrupted(log, world))
            for _ in range(4):
                with suppress(Killed):
                    await compact(interrupted, TOPIC, force=True, repeats_s=0)
                assert await folded(log) == world.whole.known
            await log.release(TOPIC, "h")
            await compact(log, TOPIC, force=True, repeats_s=0)  # nobody disturbs it and nobody holds
            await world.whole.follow(log)
            assert await folded(log) == world.whole.known
            state = (await log.partitions(TOPIC))[0]
            assert state.end - state.earliest <= 2 * len(world.whole.known) + 1

    asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(before=st.lists(WRITES, min_size=1, max_size=20), behind=st.integers(0, 40))
def test_who_holds_a_place_in_the_log_sees_everything_from_there_on(
    before: list[list[tuple[bytes, bool, Mark | None]]], behind: int
) -> None:
    """A slow follower whose state is that of its place: after the compaction it catches up to the state of all."""

    async def run() -> None:
        async with opened(True) as log:
            world = World(log, iter(()))
            slow = Fold()
            for number, writes in enumerate(before):
                await world.write(writes)
                if number == max(len(before) - 1 - behind, 0):
                    await slow.follow(log)
                    await log.hold(TOPIC, Holder("slow", HolderKind.NAMED, {0: slow.at}))
            done = await compact(log, TOPIC, force=True)
            assert done.earliest <= slow.at
            await slow.follow(log)
            await world.whole.follow(log)
            assert slow.known == world.whole.known == await folded(log)

    asyncio.run(run())
