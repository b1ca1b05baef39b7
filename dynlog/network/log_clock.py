"""Deadlines of calls on the log are log time: the engine's own clock, the same for every caller, server and restart.

What is known here of that clock comes from the log times of appends and reads, each of which lies in the past when it
is seen.  So `now_ms` is never ahead of the log: a deadline may be noticed late by the age of what was seen last, but
none is taken for passed before it has.
"""

from __future__ import annotations

from dynlog.timing import SYSTEM_CLOCK, Clock


class LogClock:
    """The log's time as far as this process knows it."""

    __slots__ = ("_ahead", "_clock")

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._ahead: float | None = None

    def observe(self, log_time_ms: int) -> None:
        """A record that is there has that log time."""
        ahead = log_time_ms - self._clock.monotonic() * 1000.0
        if self._ahead is None or ahead > self._ahead:
            self._ahead = ahead

    def now_ms(self) -> int:
        """Not later than the log's present time; needs one observation first."""
        assert self._ahead is not None, "nothing of this log was seen yet"
        return int(self._clock.monotonic() * 1000.0 + self._ahead)
