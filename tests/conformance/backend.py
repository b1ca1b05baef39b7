"""What an engine gives to the suite (a URL), and the few words in which all scenarios are written."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dynlog.batch import StoredRecord
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.timing import Clock, ManualClock
from dynlog.topics import DurabilityLevel

TOPIC = "events"
PATIENCE_S = 20.0
"""No scenario waits longer than this for something that must come; it only bounds a failure."""


class LogBackend(ABC):
    """An engine under test: a subclass says under which URL a new log lies."""

    @abstractmethod
    def url(self, tmp_path: Path) -> str:
        """The URL of a log that is new for this test; opened twice it is the same log."""

    @pytest.fixture
    def log_url(self, tmp_path: Path) -> str:
        return self.url(tmp_path)

    @pytest.fixture
    async def log(self, log_url: str) -> AsyncIterator[Log]:
        """A new log on the machine's clock, open."""
        async with open_log(log_url) as log:
            yield log

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def timed(self, log_url: str, clock: ManualClock) -> AsyncIterator[Log]:
        """A new log on a clock that the test turns (so nothing in it may wait for time to pass), open."""
        async with open_log(log_url, clock=clock) as log:
            yield log


@asynccontextmanager
async def kept_alive(url: str, clock: Clock | None = None) -> AsyncIterator[None]:
    """Lets a log survive that nobody has open: a second handle where the engine keeps things in memory only."""
    async with open_log(url) if clock is None else open_log(url, clock=clock) as log:
        if log.capabilities.durability.level is DurabilityLevel.MEMORY:
            yield
            return
    yield


def record(body: str, key: str | None = None, mark: Mark | None = None) -> Record:
    """A record of one part."""
    return Record(parts=(body.encode(),), key=None if key is None else key.encode(), mark=mark)


def records(*bodies: str) -> list[Record]:
    """Records without marks."""
    return [record(body) for body in bodies]


def numbered(count: int, prefix: str = "r") -> list[Record]:
    """``r0, r1, ...``."""
    return [record(f"{prefix}{number}") for number in range(count)]


def marked(producer: str, epoch: int, first: int, *bodies: str) -> list[Record]:
    """Records whose sequences count up from ``first``."""
    return [record(body, mark=Mark(producer, epoch, first + i)) for i, body in enumerate(bodies)]


async def stored(log: Log, topic: str = TOPIC, partition: int = 0) -> list[StoredRecord]:
    """Everything in a partition, read the way a consumer reads: along ``next_position`` up to the end."""
    position = await log.position(topic, partition)
    found: list[StoredRecord] = []
    while True:
        batch = await log.read(position)
        found += batch
        if batch.next_offset == batch.end_offset:
            return found
        assert len(batch) > 0, "a read before the end returned nothing"
        position = batch.next_position


async def bodies(log: Log, topic: str = TOPIC, partition: int = 0) -> list[str]:
    """The first parts of everything in a partition."""
    return texts(await stored(log, topic, partition))


def texts(found: Sequence[StoredRecord]) -> list[str]:
    """The first part of each."""
    return [bytes(item.record.parts[0]).decode() for item in found]


async def fill(log: Log, count: int, topic: str = TOPIC, partitions: int = 1) -> None:
    """Creates the topic and appends ``r0, r1, ...`` to its first partition in one append."""
    await log.create_topic(topic, partitions=partitions)
    await log.append(topic, 0, numbered(count))


async def bounds(log: Log, topic: str = TOPIC, partition: int = 0) -> tuple[int, int]:
    """(earliest, end) of a partition."""
    state = (await log.partitions(topic))[partition]
    return state.earliest, state.end


async def after_turns(turns: int) -> None:
    """Lets the event loop turn that often, so that a task under way reaches some await."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Asks until it is so; for effects of a background that the contract bounds only in time."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110  (nobody sets an event)
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"after {PATIENCE_S} s still not: {what}") from None
