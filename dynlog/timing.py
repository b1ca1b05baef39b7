"""Time in one place: a clock that tests can turn, a deadline that travels, a backoff that every retry uses."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dynlog.errors import DeadlineExceeded


class Clock(Protocol):
    """Where an engine takes its time from."""

    def time_ms(self) -> int:
        """Milliseconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Seconds that never go back; meaningful only as differences."""


class SystemClock:
    """The machine's clocks."""

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock that moves only when it is told to; for tests of expiry, retention and cadence."""

    def __init__(self, time_ms: int = 1_700_000_000_000) -> None:
        self._time_ms = time_ms
        self._monotonic = 0.0

    def advance(self, seconds: float) -> None:
        """Moves both clocks; negative seconds move only the wall clock, as a correction by NTP would."""
        self._time_ms += round(seconds * 1000)
        self._monotonic += max(seconds, 0.0)

    def time_ms(self) -> int:
        return self._time_ms

    def monotonic(self) -> float:
        return self._monotonic


SYSTEM_CLOCK = SystemClock()


class Deadline:
    """A point in monotonic time; passing it on shrinks what is left by itself."""

    __slots__ = ("_at", "_clock")

    def __init__(self, seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    @property
    def at(self) -> float:
        """When it passes, in seconds of its clock's monotonic time."""
        return self._at

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(self._at - self._clock.monotonic(), 0.0)

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining <= 0.0

    def check(self, what: str) -> None:
        """Raises DeadlineExceeded, naming ``what`` was being waited for, once no time is left."""
        if self.passed:
            raise DeadlineExceeded(f"no time left while {what}")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015).

    Iterating yields seconds to wait before the next try, without end: the caller's deadline ends it.
    """

    first: float = 0.02
    factor: float = 2.0
    most: float = 2.0

    def __iter__(self) -> Iterator[float]:
        ceiling = self.first
        while True:
            yield random.uniform(ceiling / 2, ceiling)
            ceiling = min(ceiling * self.factor, self.most)
