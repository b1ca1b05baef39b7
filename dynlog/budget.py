"""The one bounded buffer: bytes are taken before something is queued and given back when it is done."""

from __future__ import annotations

import asyncio
from collections import deque

from dynlog.errors import Closed


class Budget:
    """At most ``limit`` units are out at a time, first come first served; something larger goes when nothing is out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._closed = False
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Units that are out."""
        return self._used

    async def take(self, size: int) -> None:
        """Waits for room and takes it; a cancelled wait has taken nothing.  Raises Closed."""
        if self.take_now(size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give(size)  # the room came in the same instant as the cancellation
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._wake()
            raise

    def take_now(self, size: int) -> bool:
        """As `take`, but False in the place of waiting."""
        if self._closed:
            raise Closed("the buffer is closed")
        if self._waiting or not self._fits(size):
            return False
        self._used += size
        return True

    def give(self, size: int) -> None:
        """Gives room back and wakes whoever it suffices for."""
        self._used -= size
        self._wake()

    def close(self) -> None:
        """Everyone who waits, and whoever comes, gets Closed."""
        self._closed = True
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Closed("the buffer is closed"))

    def _fits(self, size: int) -> bool:
        return self._used + size <= self._limit or self._used == 0

    def _wake(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._used += size
                turn.set_result(None)
