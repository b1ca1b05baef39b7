"""Every wait of a store has a deadline, and closing it ends all of them with Closed; no wait swallows a cancellation.

`Waits.limit` is around each single wait (never around a ``yield`` to the caller); `Waits.operation` is around a whole
call, its clean-up included, so that `close` returns only when nobody is at work any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from dynlog.blocking import GRACE_S
from dynlog.errors import Closed, DeadlineExceeded


class Waits:
    """The waits of one open store (``what`` names it in messages); belongs to one event loop."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._closed = False
        self._limits: set[asyncio.Timeout] = set()
        self._operations = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """Raises Closed once `close` was called."""
        if self._closed:
            raise Closed(f"{self._what} was closed")

    @asynccontextmanager
    async def limit(self, seconds: float, doing: str) -> AsyncIterator[None]:
        """Raises DeadlineExceeded if the block takes longer, Closed if `close` comes first."""
        self.check()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise  # somebody else's, inside the block
            self.check()
            raise DeadlineExceeded(f"{seconds:g} s were not enough for {doing} ({self._what})") from None

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Lets `close` wait for the end of the block; raises Closed once it was called."""
        self.check()
        self._operations += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._operations -= 1
            if not self._operations:
                self._idle.set()

    async def close(self) -> bool:
        """Ends all waits and waits for the operations, at most a grace; False if closed before."""
        if self._closed:
            return False
        self._closed = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):  # `asyncio.wait_for` can lose a cancellation before Python 3.12
                await self._idle.wait()
        return True
