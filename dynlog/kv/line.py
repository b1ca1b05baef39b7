"""A line of keys, each bound to its owner's lease: who is first has it, and each of the others waits for the one ahead.

* **Everybody agrees who is first**: the order is that in which the log holds the creations, and a place ends with its
  key.  Of two that were ever first, the later one has the higher token.
* Nobody is woken but the one behind whoever goes, and a place costs one record to take and one to leave.
* A place that was given up by a cancellation is deleted soon after, and never outlives its lease.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Coroutine
from typing import Any

from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded, DynlogError, KeyNotFound, LeaseLost
from dynlog.kv.bucket import Bucket
from dynlog.kv.lease_holder import HeldLease
from dynlog.kv.rows import CREATED, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync
from dynlog.log import DEFAULT_TIMEOUT_S

LEAVE_S = 5.0
_ENDING = re.compile(r"/[0-9a-f]{32}")


def in_line(key: str, name: str) -> bool:
    """Whether that is a place in the line of that name."""
    return key.startswith(name) and _ENDING.fullmatch(key, len(name)) is not None


def check_name(what: str, name: str) -> str:
    """The name of a line; raises ConfigurationError for one that several could mean without knowing it, as None."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the name of {what} is text of at least one character, not {name!r:.80}")
    return name


class Place:
    """One place, taken once: `first` and then `leave`.  ``lost`` is set once its owner is no longer first, or has to
    stop; ``reason`` says why.  ``token`` is the offset of its creation, -1 before that."""

    def __init__(self, lease: HeldLease, name: str, value: bytes = b"") -> None:
        self.lease, self.name, self.key = lease, name, f"{name}/{uuid.uuid4().hex}"
        self.token = -1
        self.lost = asyncio.Event()
        self.reason: DynlogError | None = None
        self._bucket, self._value = lease.bucket, value
        self._guard: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether its owner may act in this moment, once it was first."""
        return not self.lost.is_set() and self.lease.held

    def check(self) -> None:
        """Raises why its owner has to stop: LeaseLost, KeyNotFound (somebody deleted the place), BucketNotFound."""
        self.lease.check()
        if self.reason is not None:
            raise self.reason

    async def first(self, timeout: float | None) -> None:
        """Takes the place, and returns once nobody is ahead; raises what `check` raises, DeadlineExceeded, and what
        `Bucket.create` raises.  However it fails, the place is given up."""
        self.lease.check()
        try:
            async with asyncio.timeout(timeout):
                await self._take(timeout)
                while (ahead := self._ahead()) is not None:
                    await _first_of(_gone(self._bucket, ahead), self.lost.wait())
                    self.check()
                if self._bucket.follower.fold.get(self.key) is None:
                    await self.lost.wait()  # it is about to be set
                self.check()
        except BaseException as error:
            self._abandon()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"bucket {self._bucket.name!r}: {self.name!r} was others' for all of the {timeout:g} s"
                ) from None
            raise

    async def leave(self) -> None:
        """Gives it up; if the log cannot be written to now, it goes soon after that, or with its lease."""
        self._over("it was given up")
        try:
            await self._end_guard()
            await self._bucket.delete(self.key, timeout=LEAVE_S)
        except DynlogError:
            self.lease.discard(self.key)
        except BaseException:
            self.lease.discard(self.key)
            raise

    async def _take(self, timeout: float | None) -> None:
        limit = DEFAULT_TIMEOUT_S if timeout is None else timeout
        try:
            self.token = await self._bucket.create(self.key, self._value, lease=self.lease.id, timeout=limit)
        except LeaseLost:
            self.lease.lose("it has ended in the log")
            self.lease.check()
        self._guard = asyncio.create_task(self._guard_it(), name=f"dynlog-place {self.key}")

    def _ahead(self) -> str | None:
        """The place right ahead, as the fold has it in this moment: it has everything that came before our token."""
        line = [
            (row[CREATED], key)
            for key, row in self._bucket.follower.fold.under(f"{self.name}/")
            if row[CREATED] < self.token and in_line(key, self.name)
        ]
        return max(line)[1] if line else None

    # Its end

    async def _guard_it(self) -> None:
        """Until it is lost."""
        lease = self.lease
        try:
            op = await _first_of(_gone(self._bucket, self.key), lease.lost.wait())
        except DynlogError as error:  # the bucket is gone, or closed
            self.reason = error
            self.lost.set()
            return
        if isinstance(op, Op) and op is not Op.DELETE:
            lease.lose("it has ended in the log")
        deleted = KeyNotFound("somebody deleted the place in the line", bucket=self._bucket.name, key=self.key)
        self.reason = lease.reason or deleted
        self.lost.set()

    def _over(self, why: str) -> None:
        if not self.lost.is_set():
            self.reason = Closed(f"bucket {self._bucket.name!r}: {self.name!r}: {why}")
            self.lost.set()

    def _abandon(self) -> None:
        """Without waiting for anything."""
        self._over("it was given up before it was first")
        if self._guard is not None:
            self._guard.cancel()
        self.lease.discard(self.key)

    async def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)


async def _gone(bucket: Bucket, key: str) -> Op | None:
    """Returns once the key is gone: how, if that was seen."""
    there = False
    async with bucket.watch(key=key) as watch:
        async for event in watch:
            match event:
                case Changed(entry) if entry.op is not Op.PUT:
                    return entry.op
                case Present() | Changed():
                    there = True
                case Resync():
                    there = False
                case Ready() if not there:
                    return None
    return None


async def _first_of(*coroutines: Coroutine[Any, Any, Any]) -> Any:
    """What the first of them returns or raises; the others are cancelled, and none is left behind."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
