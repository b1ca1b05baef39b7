"""What an engine gives to the consumption suite (a URL), and the few words in which all scenarios are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from dynlog.consumer import Consumer
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.received import Delivery
from dynlog.record import Record
from dynlog.retry import RetryPolicy
from tests.conformance.backend import PATIENCE_S, TOPIC, LogBackend

GROUP = "workers"
QUICK = RetryPolicy(max_attempts=3, first_s=0.01, most_s=0.02)


class ConsumeBackend(LogBackend):
    """As `LogBackend`; every consumer gets a handle on the log of its own, as in a process of its own."""


def body(delivery: Delivery) -> str:
    """The first part."""
    return bytes(delivery.record.parts[0]).decode()


def keyed(count: int, keys: int, prefix: str = "r") -> list[Record]:
    """``r0, r1, ...`` with keys in turn."""
    return [Record(parts=(f"{prefix}{n}".encode(),), key=f"k{n % keys}".encode()) for n in range(count)]


async def spread(log: Log, count: int, partitions: int, topic: str = TOPIC) -> set[str]:
    """Creates the topic, appends ``p.n`` to each partition, and returns all bodies."""
    await log.create_topic(topic, partitions=partitions)
    for partition in range(partitions):
        records = [Record(parts=(f"{partition}.{n}".encode(),)) for n in range(count)]
        await log.append(topic, partition, records)
    return {f"{partition}.{n}" for partition in range(partitions) for n in range(count)}


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """So many deliveries, acknowledged."""
    found: list[Delivery] = []
    for _ in range(count):
        delivery = await consumer.next(PATIENCE_S)
        assert delivery is not None, f"only {len(found)} of {count} came"
        await delivery.ack()
        found.append(delivery)
    return found


async def nothing_comes(consumer: Consumer, wait: float = 0.3) -> None:
    """Fails if anything comes within a moment."""
    assert await consumer.next(wait) is None


async def until(condition: Callable[[], bool], what: str) -> None:
    """Asks until it is so."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110  (nobody sets an event)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"after {PATIENCE_S} s still not: {what}") from None


@asynccontextmanager
async def member(
    url: str, settings: ConsumerSettings | None = None, *, group: str = GROUP, topic: str = TOPIC
) -> AsyncIterator[Consumer]:
    """A member of the group on a handle of its own."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(url))
        yield await stack.enter_async_context(
            Consumer.open(log, topic, group=group, settings=settings or ConsumerSettings())
        )


async def committed(log: Log, group: str = GROUP, topic: str = TOPIC) -> dict[int, int]:
    """What the group committed."""
    return dict((await log.committed(group, topic)).positions)


async def bodies_of(log: Log, topic: str) -> list[str]:
    """The first parts of everything in a topic, as any reader sees it: each record once."""
    found: list[str] = []
    async with await Reader.open(log, topic) as reader:
        while (batch := await reader.next(0.2)) is not None:
            found += [bytes(parts[0]).decode() for parts in batch.bodies if parts]
    return found
