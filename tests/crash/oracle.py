"""What was acknowledged, and whether the log agrees."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from dynlog.batch import Batch, Position
from dynlog.log import Log
from dynlog.marks import UNKNOWN_OFFSET
from dynlog.open import open_log
from tests.crash.writer import TOPIC, body_of

OPENS_WITHIN_S = 2.0


class Violation(AssertionError):
    """The log broke a promise; the message says which, where, and under which seed."""


@dataclass
class Acknowledged:
    """What the writers were told: (writer, partition) -> number -> offset."""

    offsets: dict[tuple[str, int], dict[int, int]] = field(default_factory=dict)
    count: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self, name: str, line: bytes) -> None:
        partition, number, offset = (int(part) for part in line.split())
        told = self.offsets.setdefault((name, partition), {})
        if number != len(told):
            raise Violation(f"{name} was acknowledged record {number} of partition {partition} after {len(told) - 1}")
        told[number] = offset
        self.count += 1
        self.news.set()

    def first_unknown(self, name: str, partition: int) -> int:
        """Where a writer begins again."""
        return len(self.offsets.get((name, partition), ()))

    async def reaches(self, count: int) -> None:
        """Waits until so many were acknowledged in all."""
        while self.count < count:
            self.news.clear()
            await self.news.wait()


class LogChecker:
    """Opens the log anew for each check, so that what a kill left is met by an open, and reads on where it was.

    A record is known by its writer and number; ``_found`` has the offsets of each writer's records in their order.
    """

    def __init__(self, url: str, partitions: int, acknowledged: Acknowledged) -> None:
        self._url, self._acknowledged = url, acknowledged
        self._positions: dict[int, Position | None] = dict.fromkeys(range(partitions))
        self._found: dict[tuple[str, int], list[int]] = {}
        self.slowest_open_s = 0.0

    async def check_news(self) -> int:
        """What was stored since the last check; returns how many records the log has.  Raises Violation."""
        told = {place: list(offsets.items()) for place, offsets in self._acknowledged.offsets.items()}
        started = time.monotonic()
        async with open_log(self._url) as log:
            ends = [state.end for state in await log.partitions(TOPIC)]
            self.slowest_open_s = max(self.slowest_open_s, time.monotonic() - started)
            if self.slowest_open_s > OPENS_WITHIN_S:
                raise Violation(f"the log took {self.slowest_open_s:.1f} s to open")
            for partition, position in self._positions.items():
                self._positions[partition] = await self._read_on(
                    log, position or await log.position(TOPIC, partition), ends[partition]
                )
        self._compare(told)
        return sum(ends)

    async def check_whole(self) -> int:
        """Everything, from the first record on, and every stored byte; else like `check_news`."""
        before = self._found
        self._positions, self._found = dict.fromkeys(self._positions), {}
        stored = await self.check_news()
        for place, offsets in before.items():
            if self._found[place][: len(offsets)] != offsets:
                raise Violation(f"the records of {place} lie elsewhere than when they were read before")
        async with open_log(self._url) as log:
            damages = [damage async for damage in log.verify()]
        if damages:
            raise Violation(f"verify found {damages}")
        return stored

    async def _read_on(self, log: Log, position: Position, end: int) -> Position:
        """Reads up to the end seen before; no hole, no record twice or out of its order."""
        if end < position.offset:
            raise Violation(f"partition {position.partition} ended at {position.offset} and now ends at {end}")
        while position.offset < end:
            batch = await log.read(position)
            if not len(batch) or list(batch.offsets) != list(range(position.offset, batch.next_offset)):
                raise Violation(f"a hole in {position} before {batch.next_offset}")
            self._take(batch)
            position = batch.next_position
        return position

    def _take(self, batch: Batch) -> None:
        marked = 0
        for run in batch.marks:
            marked += run.length
            for i in range(run.length):
                name, number, offset = run.producer_id, run.sequence + i, batch.offsets[run.start + i]
                places = self._found.setdefault((name, batch.partition), [])
                if number != len(places):
                    raise Violation(
                        f"record {number} of {name} at {batch.partition}/{offset} follows {len(places) - 1}"
                    )
                if batch.bodies[run.start + i] != [body_of(name, batch.partition, number)]:
                    raise Violation(f"record {number} of {name} at {batch.partition}/{offset} is not what was sent")
                places.append(offset)
        if marked != len(batch):
            raise Violation(f"{len(batch) - marked} records of nobody in partition {batch.partition}")

    def _compare(self, told: dict[tuple[str, int], list[tuple[int, int]]]) -> None:
        for (name, partition), acknowledged in told.items():
            places = self._found.get((name, partition), [])
            for number, offset in acknowledged:
                if number >= len(places):
                    raise Violation(f"record {number} of {name} was acknowledged in {partition} and is lost")
                if offset not in (places[number], UNKNOWN_OFFSET):
                    raise Violation(f"record {number} of {name} was said to be at {offset}, it is at {places[number]}")
