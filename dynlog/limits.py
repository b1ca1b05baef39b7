"""Time limits of many waits at once, kept by one timer: a wait that ends in time, as nearly all do, touches no timer.

A timer for each wait costs an append that goes alone some ten microseconds, and it waits three times on its way down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dynlog.prompt import Prompt

Waited = asyncio.Future[Any] | Prompt[Any]


class Limits:
    """The waits of one owner on its event loop; with the last of them its timer may stay, so the owner closes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waits: dict[Waited, tuple[float, Callable[[], BaseException]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def begin(self, future: Waited, until: float, error: Callable[[], BaseException]) -> None:
        """At ``until``, by the loop's clock, the future gets that error unless it is done, or `end` came first."""
        self._waits[future] = (until, error)
        if self._timer is None or until < self._at:
            self._arm(until)

    def end(self, future: Waited) -> None:
        """Nobody waits for the future any more."""
        self._waits.pop(future, None)

    def close(self) -> None:
        """Forgets all of them."""
        self._waits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at, self._timer = until, self._loop.call_at(until, self._due)

    def _due(self) -> None:
        """The time of some may be over; mostly the wait for which the timer was set has ended long since."""
        self._timer = None
        now = self._loop.time()
        for future, (until, error) in list(self._waits.items()):
            if until <= now:
                del self._waits[future]
                if not future.done():
                    future.set_exception(error())
                    future.exception()  # whoever waits may be cancelled in the same instant
        if self._waits:
            self._arm(min(until for until, _ in self._waits.values()))
