"""Time: a deadline shrinks by itself, a test's clock moves when told, a backoff grows and is bounded."""

from __future__ import annotations

import itertools
import time

import pytest

from dynlog.errors import DeadlineExceeded
from dynlog.timing import SYSTEM_CLOCK, Backoff, Deadline, ManualClock


def test_a_deadline_shrinks_as_time_passes_and_is_never_negative() -> None:
    clock = ManualClock()
    deadline = Deadline(10, clock)
    assert (deadline.remaining, deadline.passed) == (10, False)
    clock.advance(7)
    assert deadline.remaining == pytest.approx(3)
    deadline.check("still in time")
    clock.advance(4)
    assert (deadline.remaining, deadline.passed) == (0, True)


def test_a_deadline_that_passed_says_what_was_being_waited_for() -> None:
    with pytest.raises(DeadlineExceeded, match="reading the tea leaves"):
        Deadline(0, ManualClock()).check("reading the tea leaves")


def test_a_deadline_does_not_follow_a_wall_clock_that_jumps_back() -> None:
    clock = ManualClock()
    deadline = Deadline(10, clock)
    clock.advance(-3600)
    assert deadline.remaining == 10
    clock.advance(11)
    assert deadline.passed


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5_000)
    assert (clock.time_ms(), clock.monotonic()) == (5_000, 0)
    clock.advance(1.5)
    assert (clock.time_ms(), clock.monotonic()) == (6_500, 1.5)
    clock.advance(-1)
    assert (clock.time_ms(), clock.monotonic()) == (5_500, 1.5)


def test_the_system_clock_is_the_machines() -> None:
    assert abs(SYSTEM_CLOCK.time_ms() - time.time() * 1000) < 1000
    before = SYSTEM_CLOCK.monotonic()
    assert SYSTEM_CLOCK.monotonic() >= before


def test_a_backoff_grows_with_jitter_up_to_its_most_and_never_ends() -> None:
    pauses = list(itertools.islice(Backoff(first=0.1, factor=2, most=1.0), 30))
    for number, pause in enumerate(pauses):
        ceiling = min(0.1 * 2**number, 1.0)
        assert ceiling / 2 <= pause <= ceiling
    assert len(set(pauses)) > 20, "no jitter: all callers would come back at the same moment"
