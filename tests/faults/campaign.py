"""Writers, a follower and a committer on a Redis that fails; an oracle beside them that remembers what they were told.

A round lets them work, strikes in the middle of it, mends, and waits until as much again was done.  Then the log is
read anew: every acknowledged record lies where its ticket said, none is there twice, the follower saw exactly what the
log holds in its order, and no commit that was acknowledged went back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dynlog.batch import Batch
from dynlog.errors import DynlogError
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.producer import Producer
from dynlog.reader import Reader
from dynlog.record import Record

TOPIC = "events"
GROUP = "workers"
PARTITIONS = 2
WRITERS = 3
PATIENCE_S = 60.0
Strike = Callable[[], Awaitable[None]]


@dataclass
class Oracle:
    """What everybody was told."""

    acknowledged: dict[str, tuple[int, int]] = field(default_factory=dict)
    applied: dict[int, list[tuple[int, str]]] = field(default_factory=lambda: {p: [] for p in range(PARTITIONS)})
    committed: dict[int, int] = field(default_factory=dict)
    troubles: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Something was done."""
        self.news.set()
        self.news = asyncio.Event()

    @property
    def done(self) -> int:
        """The least of what was acknowledged, applied and committed."""
        applied = sum(len(found) for found in self.applied.values())
        return min(len(self.acknowledged), applied, sum(self.committed.values()))

    async def reach(self, count: int) -> None:
        """Waits until so much was done by everybody."""
        async with asyncio.timeout(PATIENCE_S):
            while self.done < count:
                await self.news.wait()


async def write(log: Log, name: str, oracle: Oracle, stop: asyncio.Event) -> None:
    """Submits until told to stop; each record's body names it."""
    number = 0
    async with Producer(log, TOPIC, producer_id=name) as producer:
        while not stop.is_set():
            bodies = [f"{name}/{number + i}" for i in range(4)]
            number += 4
            tickets = [await producer.submit(Record(parts=(body.encode(),))) for body in bodies]
            for body, ticket in zip(bodies, tickets, strict=True):
                stored = await ticket
                oracle.acknowledged[body] = (stored.partition, stored.offset)
            oracle.tell()


async def follow(log: Log, oracle: Oracle, stop: asyncio.Event) -> None:
    """Applies what it reads, in the order in which it comes, whatever the log raises in between."""
    async with await Reader.open(log, TOPIC) as reader:
        while not stop.is_set():
            try:
                batch = await reader.next(wait=0.2)
            except DynlogError as error:
                oracle.troubles.add(type(error).__name__)
                continue
            if batch is not None:
                apply(batch, oracle)
                oracle.tell()


def apply(batch: Batch, oracle: Oracle) -> None:
    """Takes a batch into what was applied."""
    found = zip(batch.offsets, batch.bodies, strict=True)
    oracle.applied[batch.partition] += [(offset, bytes(body[0]).decode()) for offset, body in found]


async def commit(log: Log, oracle: Oracle, stop: asyncio.Event) -> None:
    """Commits how far the follower is; remembers only what was acknowledged."""
    generation = await log.open_generation(GROUP, TOPIC)
    while not stop.is_set():
        positions = {p: found[-1][0] + 1 for p, found in oracle.applied.items() if found}
        waiting = oracle.news
        try:
            state = await log.commit(GROUP, TOPIC, positions, generation=generation, timeout=10)
        except DynlogError as error:
            oracle.troubles.add(type(error).__name__)
            continue
        for partition, offset in positions.items():
            assert state.positions[partition] >= offset
        oracle.committed.update(positions)
        oracle.tell()
        if not stop.is_set():
            await waiting.wait()


@asynccontextmanager
async def working(url: str, oracle: Oracle) -> AsyncIterator[None]:
    """Everybody at work, each on a handle of its own; all have ended at the end of the block."""
    stop = asyncio.Event()
    async with open_log(url) as writers, open_log(url) as follower, open_log(url) as committer:
        await writers.create_topic(TOPIC, partitions=PARTITIONS)
        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(write(writers, f"w{number}", oracle, stop))
            group.create_task(follow(follower, oracle, stop))
            group.create_task(commit(committer, oracle, stop))
            yield
            stop.set()
            oracle.tell()


async def campaign(url: str, direct: str, strike: Strike, rounds: int, dice: random.Random) -> Oracle:
    """Works through ``url`` while ``strike`` fails and mends it once a round; judges through ``direct``."""
    oracle = Oracle()
    async with working(url, oracle):
        for _ in range(rounds):
            await oracle.reach(oracle.done + dice.randrange(40, 160))
            await strike()
            await oracle.reach(oracle.done + 100)
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("dynlog")]
    assert not left, f"tasks were left behind: {left}"
    await judge(direct, oracle)
    return oracle


async def judge(url: str, oracle: Oracle) -> None:
    """Compares the log with what everybody was told."""
    async with open_log(url) as log:
        stored: dict[int, list[tuple[int, str]]] = {}
        for partition in range(PARTITIONS):
            position, found = await log.position(TOPIC, partition), []
            while True:
                batch = await log.read(position)
                found += [(item.offset, bytes(item.record.parts[0]).decode()) for item in batch]
                position = batch.next_position
                if batch.next_offset == batch.end_offset:
                    break
            stored[partition] = found
        places = {body: (partition, offset) for partition, found in stored.items() for offset, body in found}
        assert len(places) == sum(len(found) for found in stored.values()), "a record is stored twice"
        lost = {body for body, place in oracle.acknowledged.items() if places.get(body) != place}
        assert not lost, f"acknowledged, but not where it was said to be: {sorted(lost)[:5]}"
        for partition, applied in oracle.applied.items():
            assert applied == stored[partition][: len(applied)], "the follower saw something else than the log holds"
        state = await log.committed(GROUP, TOPIC)
        assert all(state.positions[p] >= offset for p, offset in oracle.committed.items()), "a commit went back"
        assert [damage async for damage in log.verify()] == []
