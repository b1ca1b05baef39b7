"""One member's place in the bucket: it is held while its lease lives and no later life has taken it, and never longer.

Whoever finds a later life there stops; whoever finds an earlier one takes its place.  A collection hangs on no lease:
it stays when whoever made it goes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from dynlog.errors import (
    ConfigurationError,
    DynlogError,
    EntityFenced,
    KeyExists,
    KeyNotFound,
    LeaseLost,
    MalformedRecord,
    RevisionConflict,
)
from dynlog.kv.bucket import Bucket
from dynlog.kv.lease_holder import HeldLease
from dynlog.kv.leases import Leases
from dynlog.kv.rows import Entry
from dynlog.network.hierarchy import Hierarchy, Member
from dynlog.network.registry_records import StoredMember, key_of, read_member, write_member
from dynlog.tasks import end_task
from dynlog.timing import Deadline

ATTEMPTS = 100
"""An entity that is written more often than this between a look and a write is fought over."""


class Folding(Protocol):
    """The registry, as a place needs it."""

    view: Hierarchy

    async def catch_up(self) -> Hierarchy:
        """The view, with all that this process has written in it."""

    def left(self, place: BucketPlace) -> None:
        """The place was given back."""


class BucketPlace:
    """See `Place`; made by `BucketRegistry.join`."""

    def __init__(
        self,
        bucket: Bucket,
        leases: Leases,
        lease: HeldLease | None,
        member: Member,
        timeout: float,
        registry: Folding,
    ) -> None:
        self.member = member
        self.revision = -1
        """Of what this place wrote last."""
        self.over = asyncio.Event()
        self.reason: DynlogError | None = None
        self._bucket, self._leases, self._lease, self._timeout = bucket, leases, lease, timeout
        self._registry = registry
        self._turn = asyncio.Lock()
        self._before: Entry | None = None
        self._watching = None if lease is None else asyncio.create_task(self._until_lost(lease))

    async def update(self, member: Member) -> int:
        if self.reason is not None:
            raise self.reason
        self._registry.view.check(member)
        return await self.take(member)

    async def take(self, member: Member) -> int:
        """Writes the member in the place of any earlier life, and returns the offset of a view that has it.

        Raises EntityFenced if a later life is there, ConfigurationError if it closed a circle that somebody else began
        in this moment; what was written is taken back then.
        """
        async with self._turn:  # one at a time, since one that fails takes its own back
            deadline = Deadline(self._timeout)
            before, self.member = self.member, replace(member, entity=self.member.entity)
            try:
                await self._write(deadline)
                view = await self._registry.catch_up()
                if (why := view.broken.get(self.member.entity)) is not None:
                    await self._take_back(deadline)
                    raise ConfigurationError(f"{self.member.entity}: {why}; nothing was changed")
            except BaseException:
                self.member = before  # nobody is to believe that it was said
                raise
            return view.offset

    async def leave(self) -> None:
        self._registry.left(self)
        try:
            if self._watching is not None:
                await end_task(self._watching)
        finally:
            if self._lease is not None:
                await self._give_back(self._lease)

    # What the registry sees.

    def seen(self, incarnation: int) -> None:
        """A life of the member was registered."""
        if incarnation > self.member.entity.incarnation:
            self.stop(self._fenced(incarnation))

    def gone(self, revision: int) -> None:
        """The member's key is gone."""
        if 0 <= self.revision < revision:
            self.stop(
                KeyNotFound(
                    f"{self.member.entity} must stop: it is registered no longer, since somebody deleted it or its "
                    f"lease ended",
                    bucket=self._bucket.name, key=key_of(self.member.entity),
                )
            )  # fmt: skip

    def stop(self, reason: DynlogError) -> None:
        """The member must stop; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self.over.set()

    # Within.

    async def _give_back(self, lease: HeldLease) -> None:
        if self.revision >= 0:
            # Whoever took the place meanwhile keeps it; without a log the lease ends by itself.
            with suppress(DynlogError):
                await self._bucket.delete(key_of(self.member.entity), self.revision, timeout=self._timeout)
        with suppress(DynlogError):
            await self._leases.revoke(lease, timeout=self._timeout)

    async def _until_lost(self, lease: HeldLease) -> None:
        await lease.lost.wait()
        self.stop(
            LeaseLost(
                f"{self.member.entity} must stop: {lease.reason or 'its lease is lost'}",
                bucket=self._bucket.name, lease=lease.id,
            )
        )  # fmt: skip

    def _fenced(self, incarnation: int) -> EntityFenced:
        return EntityFenced(
            f"incarnation {incarnation} of {self.member.entity} is there: this one must stop",
            bucket=self._bucket.name, key=key_of(self.member.entity), incarnation=incarnation,
        )  # fmt: skip

    async def _write(self, deadline: Deadline) -> None:
        key, lease = key_of(self.member.entity), None if self._lease is None else self._lease.id
        for _ in range(ATTEMPTS):
            there = await self._bucket.get(key, linearizable=True, timeout=deadline.remaining)
            value = write_member(self.member, self._stored(there))
            if there is not None and lease is None and _same(there, self.member):
                self.revision, self._before = there.revision, there
                return
            with suppress(KeyExists, RevisionConflict):
                if there is None:
                    self.revision = await self._bucket.create(key, value, lease=lease, timeout=deadline.remaining)
                else:
                    self.revision = await self._bucket.update(
                        key, value, there.revision, lease=lease, timeout=deadline.remaining
                    )
                self._before = there
                return
        raise RevisionConflict(
            f"{self.member.entity} was written {ATTEMPTS} times by others while it joined: who are they?",
            bucket=self._bucket.name, key=key, revision=None,
        )  # fmt: skip

    async def _take_back(self, deadline: Deadline) -> None:
        """Leaves things as they were before `_write`, unless somebody else wrote meanwhile."""
        key, before, lease = key_of(self.member.entity), self._before, self._lease
        with suppress(RevisionConflict):
            if before is None:
                await self._bucket.delete(key, self.revision, timeout=deadline.remaining)
                self.revision = -1
            elif before.revision != self.revision and (lease is None or before.lease == lease.id):
                self.revision = await self._bucket.update(
                    key, before.value, self.revision, lease=before.lease or None, timeout=deadline.remaining
                )
        await self._registry.catch_up()

    def _stored(self, entry: Entry | None) -> StoredMember | None:
        """What lies there, if it is a member; raises EntityFenced if it is a later life."""
        if entry is None:
            return None
        try:
            stored = read_member(entry)
        except MalformedRecord:
            return None
        if stored.member.entity.incarnation > self.member.entity.incarnation:
            raise self._fenced(stored.member.entity.incarnation)
        return stored


def _same(entry: Entry, member: Member) -> bool:
    """Whether what lies there says the same already."""
    try:
        return read_member(entry).member == member
    except MalformedRecord:
        return False
