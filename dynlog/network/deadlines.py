"""Deadlines of all open calls on one timer: each costs two entries in dictionaries, and is at most a tick late."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from typing import Protocol

TICK_S = 0.01


class Expiring(Protocol):
    """What has a deadline; hashed by identity."""

    def expire(self) -> None:
        """Its time is over."""


class Deadlines:
    """Calls an item's ``expire`` once its time has passed; belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: dict[int, dict[Expiring, None]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def add(self, item: Expiring, at: float) -> int:
        """Remembers the item until that loop time; returns what `discard` takes."""
        tick = int(at / TICK_S) + 1
        items = self._ticks.get(tick)
        if items is None:
            self._ticks[tick] = {item: None}
            heappush(self._order, tick)
            if self._timer is None or tick < self._timer_at:
                self._arm(tick)
        else:
            items[item] = None
        return tick

    def discard(self, item: Expiring, tick: int) -> None:
        """The item is over before its time."""
        items = self._ticks.get(tick)
        if items is not None:
            items.pop(item, None)

    def close(self) -> None:
        """Forgets everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._ticks.clear()
        self._order.clear()

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = tick
        self._timer = self._loop.call_at(tick * TICK_S, self._due)

    def _due(self) -> None:
        self._timer = None
        # Half a tick early is due as well: timers of the loop fire within its clock's resolution.
        now = self._loop.time() / TICK_S + 0.5
        while self._order and self._order[0] <= now:
            for item in self._ticks.pop(heappop(self._order), {}):
                item.expire()
        # Ticks whose items all ended early are passed over without a wake-up of their own.
        while self._order and not self._ticks[self._order[0]]:
            del self._ticks[heappop(self._order)]
        if self._order and self._timer is None:
            self._arm(self._order[0])
