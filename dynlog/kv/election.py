"""Electing a leader: candidates stand in line under their leases, the first one leads, and everybody may watch.

    election = Election(bucket, "scheduler")
    async with await election.campaign(lease, b"http://10.0.0.7:80") as leadership:
        while leadership.held: ...

    async with election.observe() as leaders:
        async for leader in leaders: ...  # Leader, or None while nobody leads

**In the order of the log there is one leader or none**, each with a higher token than the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import NamedTuple, Self

from dynlog.errors import LeaseLost
from dynlog.kv.bucket import Bucket, Value
from dynlog.kv.lease_holder import HeldLease
from dynlog.kv.line import Place, check_name, in_line
from dynlog.kv.rows import Entry, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync, Watch
from dynlog.log import DEFAULT_TIMEOUT_S


class Leader(NamedTuple):
    """Who leads: its fencing token, what it proclaims, and its lease."""

    token: int
    value: bytes
    lease: str


class Election:
    """The election of that name in a bucket."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self.bucket, self.name = bucket, check_name("an election", name)

    async def campaign(self, lease: HeldLease, value: Value = b"", timeout: float | None = None) -> Leadership:
        """Stands for election and returns once elected.

        Raises DeadlineExceeded, LeaseLost, and what `Bucket.create` raises.  A call that is cancelled stands no longer.
        """
        place = Place(lease, self.name, bytes(value))
        await place.first(timeout)
        return Leadership(self.bucket, place)

    async def leader(self, *, linearizable: bool = False, timeout: float = DEFAULT_TIMEOUT_S) -> Leader | None:
        """Who leads now, None if nobody; raises as `Bucket.get`."""
        entries = await self.bucket.entries(f"{self.name}/", linearizable=linearizable, timeout=timeout)
        return _leader({entry.key: entry for entry in entries if in_line(entry.key, self.name)})

    @asynccontextmanager
    async def observe(self) -> AsyncIterator[AsyncIterator[Leader | None]]:
        """Who leads now, and then every change of that, for ever; what is iterated over raises as a watch does."""
        async with self.bucket.watch(prefix=f"{self.name}/") as watch, aclosing(self._leaders(watch)) as leaders:
            yield leaders

    async def _leaders(self, watch: Watch) -> AsyncGenerator[Leader | None, None]:
        candidates: dict[str, Entry] = {}
        said: Leader | None = None
        whole = False
        first = True
        async for event in watch:
            match event:
                case Present(entry) | Changed(entry) if in_line(entry.key, self.name):
                    if entry.op is Op.PUT:
                        candidates[entry.key] = entry
                    else:
                        candidates.pop(entry.key, None)
                case Ready():
                    whole = True
                case Resync():
                    candidates.clear()
                    whole = False
            leader = _leader(candidates)
            if whole and (first or leader != said):
                first, said = False, leader
                yield leader


class Leadership:
    """This process leads until ``lost`` is set; an async context manager whose exit resigns."""

    def __init__(self, bucket: Bucket, place: Place) -> None:
        self._bucket, self._place = bucket, place
        self._proclaiming = asyncio.Lock()
        self.token = place.token
        self.lease = place.lease
        self.lost: asyncio.Event = place.lost

    @property
    def held(self) -> bool:
        """Whether the leader may act in this moment."""
        return self._place.held

    def check(self) -> None:
        """Raises why it has to stop: LeaseLost, KeyNotFound (somebody deleted its place), Closed after `resign`."""
        self._place.check()

    async def proclaim(self, value: Value, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """What observers see of the leader from now on; raises what `check` and `Bucket.update` raise."""
        async with self._proclaiming:
            self.check()
            entry = await self._bucket.get(self._place.key)
            if entry is None:
                await self.lost.wait()  # it is about to be set
                self.check()
                return
            try:
                await self._bucket.update(entry.key, value, entry.revision, lease=self.lease.id, timeout=timeout)
            except LeaseLost:
                self.lease.lose("it has ended in the log")
                raise

    async def resign(self) -> None:
        """Leads no longer; if the log cannot be written to now, others learn of it soon after, or with the lease."""
        await self._place.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.resign()


def _leader(candidates: dict[str, Entry]) -> Leader | None:
    if not candidates:
        return None
    entry = min(candidates.values(), key=lambda entry: entry.created)
    return Leader(entry.created, entry.value, entry.lease)
