"""Staying awake for a reply that comes sooner than sleeping pays.

A processor that slept comes back with cold caches and nothing foreseen: what a lone append computes then takes twice as
long, and waking takes some ten microseconds on both sides.  Where the server answers within a tenth of a millisecond,
an event loop that looks again and again takes a quarter less time for the append, and some 15 % more of the processor.
So it looks, for `AWAKE_S` at most; everything else on the loop has its turn in between.  A server that mostly takes
longer is slept for: on another host, syncing each append, or on a machine that has more to do than processors.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

AWAKE_S = 0.0002
"""So long at most the loop stays awake for one reply."""
SHARE = 8
"""What is usual moves by so small a part of the distance to each new reply."""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Vigil:
    """Of one connection; ``clock`` says the seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pays = processors() > 1  # on a single one the server could do nothing meanwhile
        self._sent_at: float | None = None  # while its reply is waited for
        self._usual_s = 0.0
        self.awake = False
        """Whether the loop is kept from sleeping."""

    def begin(self) -> None:
        """A command has left, and nothing else is waited for on this connection."""
        self._sent_at = self._clock()
        if not self.awake and self._pays and self._usual_s < AWAKE_S:
            self.awake = True
            self._loop.call_soon(self._look)

    def end(self) -> None:
        """A reply is there; the first one after `begin` is to that command."""
        if self._sent_at is not None:
            self._usual_s += (self._clock() - self._sent_at - self._usual_s) / SHARE
            self._sent_at = None

    def _look(self) -> None:
        self.awake = self._sent_at is not None and self._clock() - self._sent_at < AWAKE_S
        if self.awake:
            self._loop.call_soon(self._look)
