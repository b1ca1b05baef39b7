"""A lock that many processes contend for, in the order in which they asked.

    lock = Lock(lease, "jobs/rebuild")
    async with lock:
        await bucket.put("jobs/state", state, lease=lease.id)  # loses if the lease has ended
        deed(token=lock.token)                                 # elsewhere: the lower token is to be refused there

**Of two holders never do both hold, by the log's order, and never do both believe to, by their clocks**; what a holder
does after a pause that nobody foresaw is caught by the lease that its writes carry and the token that its deeds carry.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from dynlog.errors import Closed, ConfigurationError
from dynlog.kv.lease_holder import HeldLease
from dynlog.kv.line import Place, check_name


class Lock:
    """One contender for the lock of that name; every task makes its own, many may share a lease.

    A place in its line is a key ``<name>/<32 hexadecimal digits>`` of the lease's bucket.
    """

    def __init__(self, lease: HeldLease, name: str) -> None:
        self.lease, self.name = lease, check_name("a lock", name)
        self._place: Place | None = None
        self._has = False

    @property
    def token(self) -> int:
        """The fencing token: higher for every later holder; raises Closed if the lock was not acquired."""
        return self._mine().token

    @property
    def held(self) -> bool:
        """Whether its holder may act in this moment."""
        return self._has and self._mine().held

    @property
    def lost(self) -> asyncio.Event:
        """Set once its holder has to stop; raises Closed if the lock was not acquired."""
        return self._mine().lost

    def check(self) -> None:
        """Raises why its holder has to stop: LeaseLost, KeyNotFound (somebody deleted its place), Closed."""
        self._mine().check()

    async def acquire(self, timeout: float | None = None) -> int:
        """Returns the fencing token once the lock is held.

        Raises DeadlineExceeded, LeaseLost, and what `Bucket.create` raises.  A call that is cancelled leaves the line.
        """
        if self._place is not None:
            raise ConfigurationError(f"lock {self.name!r} is held or asked for by this object: make one for each task")
        self._place = place = Place(self.lease, self.name)
        try:
            await place.first(timeout)
        except BaseException:
            self._place = None
            raise
        self._has = True
        return place.token

    async def release(self) -> None:
        """Gives it to the next in line; one that was lost is no error.

        If the log cannot be written to now, that happens soon after, or with the end of the lease.
        """
        place, self._place, self._has = self._mine(), None, False
        await place.leave()

    def _mine(self) -> Place:
        if self._place is None or not self._has:
            raise Closed(f"lock {self.name!r} is not held: acquire it first")
        return self._place

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.release()
