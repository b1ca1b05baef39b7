"""A bounded queue's front door: whoever comes when it is full waits outside, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """So many bytes and so many entries at once; a single entry over the bound passes when nothing else is inside."""

    def __init__(self, most_bytes: int, most_entries: int) -> None:
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._bytes = 0
        self._entries = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Takes ``size`` bytes and an entry, after everyone who came before."""
        if self.take_now(size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            else:
                self._let_in()
            raise

    def take_now(self, size: int) -> bool:
        """As `take`, but False in the place of waiting."""
        if self._waiting or not self._fits(size):
            return False
        self._enter(size)
        return True

    def give_back(self, size: int) -> None:
        """Gives back what `take` took."""
        self._bytes -= size
        self._entries -= 1
        self._let_in()

    def _fits(self, size: int) -> bool:
        within = self._bytes + size <= self._most_bytes and self._entries < self._most_entries
        return within or not self._entries

    def _enter(self, size: int) -> None:
        self._bytes += size
        self._entries += 1

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._enter(size)
                turn.set_result(None)
