"""What an engine gives to the key-value suite (a URL), and the few words in which all scenarios are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dynlog.kv import Bucket, BucketSettings, Changed, Event, Present, Ready, Resync, Watch, open_kv
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import PATIENCE_S, LogBackend
from tests.faulty import FaultyLog

NAME = "things"


class KvBackend(LogBackend):
    """As `LogBackend`; every other process is another handle on the log."""

    @pytest.fixture
    async def bucket(self, log: Log) -> AsyncIterator[Bucket]:
        """A new bucket, open."""
        async with open_kv(log, compaction=None) as kv:
            yield await kv.create(NAME)

    @pytest.fixture
    async def old(self, log: Log) -> AsyncIterator[Bucket]:
        """A new bucket that keeps five changes per key, open."""
        async with open_kv(log, compaction=None) as kv:
            yield await kv.create(NAME, BucketSettings(history=5))


@asynccontextmanager
async def elsewhere(url: str, **options: Any) -> AsyncIterator[Bucket]:
    """The bucket as another process has it."""
    async with open_log(url) as log, open_kv(log, **{"compaction": None, **options}) as kv:
        yield await kv.bucket(NAME)


@asynccontextmanager
async def faulty(url: str, **options: Any) -> AsyncIterator[tuple[Bucket, FaultyLog]]:
    """The bucket over a log that goes wrong when it is told to."""
    async with open_log(url) as log:
        wrapped = FaultyLog(log)
        async with open_kv(wrapped.log, **{"compaction": None, **options}) as kv:
            bucket = await kv.bucket(NAME)
            try:
                yield bucket, wrapped
            finally:
                wrapped.down = False
                wrapped.gate.set()


async def take(watch: Watch, count: int) -> list[Event]:
    """So many events."""
    found: list[Event] = []
    for _ in range(count):
        event = await watch.next(PATIENCE_S)
        assert event is not None, f"only {found} came"
        found.append(event)
    return found


async def until_ready(watch: Watch) -> list[Event]:
    """The events up to the marker."""
    found: list[Event] = []
    while not found or not isinstance(found[-1], Ready):
        found += await take(watch, 1)
    return found


def said(events: Sequence[Event]) -> list[Any]:
    """Events in short: +key=value, key=value for a change, -key for one that is gone, ready, resync."""
    short: list[str] = []
    for event in events:
        match event:
            case Present(entry):
                short.append(f"+{entry.key}={entry.value.decode()}")
            case Changed(entry):
                short.append(f"-{entry.key}" if entry.op else f"{entry.key}={entry.value.decode()}")
            case Ready():
                short.append("ready")
            case Resync():
                short.append("resync")
    return short


async def contents(bucket: Bucket) -> dict[str, bytes]:
    """What is there, as of everything that has returned anywhere."""
    return {entry.key: entry.value for entry in await bucket.entries(linearizable=True)}


async def known(bucket: Bucket) -> Any:
    """Everything that can be asked of it."""
    await bucket.barrier()
    keys = bucket.follower.fold.known()
    return {key: await bucket.history(key) for key in keys}, await bucket.entries(), dict(bucket.leases)
