"""What a store gives to the suite (a URL), and the few words in which all scenarios are written."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dynlog.objects import ObjectStore
from dynlog.open import open_objects
from dynlog.timing import ManualClock

PATIENCE_S = 20.0
"""No scenario waits longer than this for something that must come; it only bounds a failure."""


class ObjectBackend(ABC):
    """A subclass says under which URL a new store lies."""

    @abstractmethod
    def url(self, tmp_path: Path) -> str:
        """The URL of a store that is new for this test; opened twice it is the same store."""

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return self.url(tmp_path)

    @pytest.fixture
    async def store(self, store_url: str) -> AsyncIterator[ObjectStore]:
        async with open_objects(store_url) as store:
            yield store

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def timed(self, store_url: str, clock: ManualClock) -> AsyncIterator[ObjectStore]:
        """A new store on a clock that the test turns, open."""
        async with open_objects(store_url, clock=clock) as store:
            yield store


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body in these pieces."""
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def drain(iterator: AsyncIterator[Any]) -> None:
    """Reads to the end."""
    async for _ in iterator:
        pass


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """The keys that a listing gives."""
    return [info.key async for info in store.list(prefix)]


async def cancelled_after(turns: int, call: Coroutine[Any, Any, Any]) -> None:
    """Starts the call and cancels it after some turns of the loop; it may have been done before."""
    task = asyncio.create_task(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.done(), "a cancelled call goes on"
    if not task.cancelled():
        task.result()
