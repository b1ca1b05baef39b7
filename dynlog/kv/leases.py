"""The leases of this process in a bucket: granted, kept alive by one heartbeat for all of them, revoked at the end.

    async with Leases(bucket) as leases:
        lease = await leases.grant(10.0, "worker 7")
        await bucket.put("workers/7", b"here", lease=lease.id)  # gone when the lease ends, refused once it has
        await lease.lost.wait()                                 # or `lease.check()` before every deed

* **Whoever holds a lease knows it by its own clock** (see `dynlog.kv.lease_holder`) and stops in time, also if it is
  cut off from the log; a lease that is lost stays lost.
* A heartbeat counts only if the lease still lives in the log *behind* it: whoever was expired meanwhile learns that.
* Leases that nobody revokes (a process that was killed) are expired by whoever else has the bucket open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from dynlog.errors import BucketNotFound, Closed, DynlogError, LeaseLost
from dynlog.kv.bucket import Bucket
from dynlog.kv.fold import Verdict
from dynlog.kv.lease_holder import HeldLease, HolderClock, check_ttl
from dynlog.kv.records import Beat, Delete, Grant, Revoke
from dynlog.kv.settings import ttl_ms
from dynlog.log import DEFAULT_TIMEOUT_S
from dynlog.timing import Backoff, Clock

logger = logging.getLogger(__name__)
NAMED_AT_ONCE = 1024
"""One heartbeat names at most so many leases; further ones go out in the same append."""
SHORTEST_WAIT_S = 0.05
CLOSE_S = 5.0
TIDY_S = 10.0


class Leases:
    """Holds leases; an async context manager whose exit revokes those that are left.

    One of them per process and bucket is enough for any number of leases, and its heartbeats cost one record.
    """

    def __init__(self, bucket: Bucket, *, process: str | None = None, clock: Clock | None = None) -> None:
        self.bucket = bucket
        self.process = process or f"{socket.gethostname()} process {os.getpid()}"
        self._clock = clock or HolderClock()
        self._held: dict[str, HeldLease] = {}
        self._left: dict[str, HeldLease] = {}
        self._lost: dict[str, float] = {}
        self._wake, self._to_tidy = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def held(self) -> Sequence[HeldLease]:
        """The leases that are held in this moment."""
        return [lease for lease in list(self._held.values()) if lease.held]

    async def grant(self, ttl_s: float, owner: str = "", *, timeout: float = DEFAULT_TIMEOUT_S) -> HeldLease:
        """A new lease, kept alive until it is revoked; ``owner`` is what others see of its holder.

        Raises LeaseLost if that took longer than the lease lives, ConfigurationError for a TTL that nobody could keep,
        and what `Bucket.put` raises.  A call that is cancelled may leave a lease that ends by itself.
        """
        if not self._tasks:
            raise Closed("the leases are not open: use them as `async with`")
        milliseconds = ttl_ms(check_ttl(ttl_s))
        id, sent = uuid.uuid4().hex, self._clock.monotonic()
        outcome = await self.bucket.say(Grant(id, milliseconds, owner or self.process), timeout=timeout)
        if outcome.verdict is not Verdict.WON:
            raise LeaseLost(f"it was not granted: {outcome}", bucket=self.bucket.name, lease=id)
        lease = HeldLease(
            self.bucket,
            id,
            token=outcome.offset,
            owner=owner or self.process,
            ttl_s=milliseconds / 1000,
            sent=sent,
            clock=self._clock,
            on_lost=self._forget,
            on_left=self._discard,
        )
        self._held[id] = lease
        lease.check()
        if not self._tasks:  # closed meanwhile
            lease.lose("the leases were closed while it was granted")
            lease.check()
        self._wake.set()
        return lease

    async def revoke(self, lease: HeldLease, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Ends the lease, and the keys bound to it are gone; its holder has to have stopped.

        One that has ended already is no error.  Raises what `Bucket.put` raises; the lease is then given up all the
        same, and revoked later or expired.
        """
        lease.lose("it was revoked by its holder")
        await self.bucket.say(Revoke(lease.id), timeout=timeout)
        self._lost.pop(lease.id, None)

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._keep(), name=f"dynlog-kv-{self.bucket.name}-leases"),
            asyncio.create_task(self._tidy(), name=f"dynlog-kv-{self.bucket.name}-tidy"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        revoking = [self.revoke(lease, timeout=CLOSE_S) for lease in self.held]
        for failed in await asyncio.gather(*revoking, return_exceptions=True):
            if isinstance(failed, DynlogError):
                logger.warning("bucket %s: a lease was not revoked and ends by itself: %s", self.bucket.name, failed)

    def _forget(self, lease: HeldLease) -> None:
        """A lease is lost: once its TTL is over it is revoked, or a heartbeat that comes late would keep it alive."""
        if self._held.pop(lease.id, None) is not None:
            logger.info("bucket %s: %s", self.bucket.name, lease.reason)
            self._lost[lease.id] = lease.ttl_over
            self._to_tidy.set()

    def _discard(self, lease: HeldLease, key: str) -> None:
        self._left[key] = lease
        self._to_tidy.set()

    # Heartbeats

    async def _keep(self) -> None:
        try:
            await self._beat_on()
        except Exception as error:  # a defect; no holder is to go on in the belief that somebody keeps its lease
            for lease in self.held:
                lease.lose(f"its heartbeats failed: {error!r}")
            raise

    async def _beat_on(self) -> None:
        pauses = iter(Backoff())
        while True:
            self._wake.clear()
            held = self.held
            if not held:
                await self._wake.wait()
                continue
            wait = min(lease.next_beat for lease in held) - self._clock.monotonic()
            if wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                continue
            if await self._beat(held):
                pauses = iter(Backoff())
            else:
                await asyncio.sleep(min(next(pauses), min(lease.ttl_s for lease in held) / 10))

    async def _beat(self, held: Sequence[HeldLease]) -> bool:
        """One heartbeat for all; whether it was acknowledged."""
        sent, ids = self._clock.monotonic(), [lease.id for lease in held]
        timeout = max(min(lease.remaining for lease in held), SHORTEST_WAIT_S)
        beats = [Beat(self.process, tuple(ids[at : at + NAMED_AT_ONCE])) for at in range(0, len(ids), NAMED_AT_ONCE)]
        said = await asyncio.gather(*(self.bucket.say(beat, timeout=timeout) for beat in beats), return_exceptions=True)
        for error in said:
            if isinstance(error, DynlogError) and self._is_over(error):
                for lease in held:
                    lease.lose(str(error))
                return True
            if isinstance(error, DynlogError):  # the next heartbeat is the repetition
                logger.warning("bucket %s: a heartbeat was not acknowledged: %s", self.bucket.name, error)
                return False
            if isinstance(error, BaseException):
                raise error
        lives = self.bucket.leases
        for lease in held:
            if lease.id not in lives:
                lease.lose("it has ended in the log")
            elif lease.held:
                lease.renewed(sent)
        return True

    # What was given up in the middle of something

    async def _tidy(self) -> None:
        """Deletes the keys of waiters that were cancelled, and ends leases that were lost; or the TTL does it."""
        pauses = iter(Backoff())
        while True:
            self._to_tidy.clear()
            lives, now = self.bucket.leases, self._clock.monotonic()
            self._left = {key: lease for key, lease in self._left.items() if lease.held}
            self._lost = {id: at for id, at in self._lost.items() if id in lives}
            due = [id for id, at in self._lost.items() if at <= now]
            if not self._left and not due:
                await self._something_to_tidy(min(self._lost.values(), default=None))
                continue
            facts: list[Delete | Revoke] = [*map(Delete, self._left), *map(Revoke, due)]
            facts = facts[:NAMED_AT_ONCE]
            said = await asyncio.gather(
                *(self.bucket.say(fact, timeout=TIDY_S) for fact in facts), return_exceptions=True
            )
            for fact, outcome in zip(facts, said, strict=True):
                if not isinstance(outcome, BaseException):
                    self._left.pop(fact.key, None) if isinstance(fact, Delete) else self._lost.pop(fact.lease, None)
            if any(isinstance(outcome, DynlogError) and self._is_over(outcome) for outcome in said):
                self._left, self._lost = {}, {}
            elif any(isinstance(outcome, BaseException) for outcome in said):
                await asyncio.sleep(next(pauses))
            else:
                pauses = iter(Backoff())

    def _is_over(self, error: DynlogError) -> bool:
        """Whether nothing can be said to the bucket any more, whatever is tried again."""
        return isinstance(error, BucketNotFound | Closed) or self.bucket.follower.failure is not None

    async def _something_to_tidy(self, at: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(at - self._clock.monotonic(), 0.0)):
                await self._to_tidy.wait()
