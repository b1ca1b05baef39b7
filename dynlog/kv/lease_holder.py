"""A lease as its holder has it: for how long it may still act, by its own clock and nothing else.

**A holder stops before anybody can take its lease away.**  Its time is counted from the *send* of the last heartbeat
that was acknowledged, an observer's from the moment in which it read that heartbeat, which is later; so the observer's
TTL ends later too, but for two things, which the margin covers:

* *Rates.*  Two clocks that are slewed by at most 500 ppm (the kernel's limit) and whose crystals are off by 100 ppm
  part by at most 2 * 600 ppm: 0.12 % of the TTL, taken as 0.2 %.
* *Scheduling.*  A holder that has to stop does so once its event loop gets to it: a tenth of the TTL, at most 0.5 s.

A pause beyond that (SIGSTOP, a long collection) can fall between a look at the clock and the deed, whatever the margin.
Therefore writes to the bucket carry the lease and lose if it has ended, and deeds elsewhere carry its fencing token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dynlog.errors import ConfigurationError, LeaseLost
from dynlog.kv.bucket import Bucket
from dynlog.kv.settings import is_number
from dynlog.timing import Clock, SystemClock

RATES = 0.002
SCHEDULING = 0.1
SCHEDULING_MOST_S = 0.5
SHORTEST_TTL_S = 0.2
"""A shorter one would be lost to every pause of the garbage collector."""


def margin(ttl_s: float) -> float:
    """So many seconds before its TTL is over a holder stops."""
    return ttl_s * RATES + min(ttl_s * SCHEDULING, SCHEDULING_MOST_S)


class HolderClock(SystemClock):
    """The machine's clocks; the monotonic one goes on while the machine sleeps, where the system has such a clock."""

    def monotonic(self) -> float:
        clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if clock is None else time.clock_gettime(clock)


class HeldLease:
    """A lease of this process; `Leases.grant` makes it and keeps it alive.

    ``lost`` is set once its holder has to stop, for good, and ``reason`` says why; `held` and `check` look at the clock
    themselves, so they are right also in the first moment after a pause.
    """

    def __init__(
        self,
        bucket: Bucket,
        id: str,
        *,
        token: int,
        owner: str,
        ttl_s: float,
        sent: float,
        clock: Clock,
        on_lost: Callable[[HeldLease], None],
        on_left: Callable[[HeldLease, str], None],
    ) -> None:
        self.bucket, self.id, self.token, self.owner, self.ttl_s = bucket, id, token, owner, ttl_s
        self.lost = asyncio.Event()
        self.reason: LeaseLost | None = None
        self._clock, self._on_lost, self._on_left = clock, on_lost, on_left
        self._timer: asyncio.TimerHandle | None = None
        self.renewed(sent)

    @property
    def remaining(self) -> float:
        """For so many seconds its holder may still act if no further heartbeat is acknowledged."""
        return 0.0 if self.lost.is_set() else max(self._until - self._clock.monotonic(), 0.0)

    @property
    def held(self) -> bool:
        """Whether its holder may act in this moment."""
        if not self.lost.is_set() and self.remaining <= 0.0:
            self.lose(f"no heartbeat was acknowledged in {self.ttl_s - margin(self.ttl_s):g} s")
        return not self.lost.is_set()

    def check(self) -> None:
        """Raises LeaseLost if its holder has to stop."""
        if not self.held:
            assert self.reason is not None
            raise self.reason

    def discard(self, key: str) -> None:
        """Has a key that is bound to the lease deleted, soon and without waiting for it: after a cancellation."""
        self._on_left(self, key)

    # For whoever keeps it alive

    @property
    def next_beat(self) -> float:
        """When the next heartbeat is due, by the holder's clock."""
        return self._sent + self.ttl_s / 3

    @property
    def ttl_over(self) -> float:
        """When nobody may take it for held any more, by the holder's clock."""
        return self._sent + self.ttl_s

    def renewed(self, sent: float) -> None:
        """A heartbeat (or the grant) that was sent then is acknowledged, and the lease lives in the log behind it."""
        self._sent = sent
        self._until = sent + self.ttl_s - margin(self.ttl_s)
        if self._timer is None:
            self._set_timer()

    def lose(self, why: str) -> None:
        """Its holder has to stop, whatever the log says later."""
        if self.lost.is_set():
            return
        self.reason = LeaseLost(
            f"lease {self.id!r}: {why}; its holder has to stop", bucket=self.bucket.name, lease=self.id
        )
        if self._timer is not None:
            self._timer.cancel()
        self.lost.set()
        self._on_lost(self)

    def _set_timer(self) -> None:
        # A renewal only moves the time; the timer finds that when it fires, and is set again.
        self._timer = asyncio.get_running_loop().call_later(self.remaining, self._on_timer)

    def _on_timer(self) -> None:
        if self.held:
            self._set_timer()


def check_ttl(ttl_s: float) -> float:
    """The TTL; raises ConfigurationError for one that nobody could keep."""
    if not (is_number(ttl_s) and ttl_s >= SHORTEST_TTL_S):
        raise ConfigurationError(
            f"ttl_s={ttl_s!r:.80}: a lease lives for at least {SHORTEST_TTL_S} s between heartbeats, a number"
        )
    return ttl_s
