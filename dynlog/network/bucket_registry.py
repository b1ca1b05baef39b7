"""The registry of a fleet: members in a bucket of the log, each under a lease; its offset is the bucket's revision.

    entities/HEX      the member with that id, as JSON; it goes with its lease, and a later life takes its place

A collection's record hangs on no lease: it stays when whoever made it goes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from dynlog.entity import DynamoEntityID
from dynlog.errors import (
    ConfigurationError,
    DynlogError,
    EntityFenced,
    KeyExists,
    LeaseLost,
    MalformedRecord,
    RevisionConflict,
)
from dynlog.kv.bucket import Bucket
from dynlog.kv.lease_holder import HeldLease
from dynlog.kv.leases import Leases
from dynlog.kv.rows import Entry, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync
from dynlog.network.hierarchy import Hierarchy, Interest, Member
from dynlog.network.registry import Changed as OnChange

PREFIX = "entities/"
TTL_S = 10.0
ATTEMPTS = 100
"""An entity that is written more often than this between a look and a write is fought over."""


def key_of(entity: DynamoEntityID) -> str:
    """Where a member lies in the bucket."""
    return f"{PREFIX}{entity.id:032x}"


def write_member(member: Member) -> bytes:
    """A member as it is stored."""
    said = {
        "entity": str(member.entity),
        "parents": [str(parent) for parent in member.parents],
        "addresses": list(member.addresses),
        "host": member.host,
        "process": member.process,
        "interests": sorted([str(interest.entity), interest.topic] for interest in member.interests),
    }
    return json.dumps(said, separators=(",", ":")).encode()


def read_member(value: bytes) -> Member:
    """What was stored; raises MalformedRecord."""
    try:
        said: dict[str, Any] = json.loads(value)
        return Member(
            DynamoEntityID.parse(said["entity"]),
            tuple(DynamoEntityID.parse(parent) for parent in said.get("parents", ())),
            tuple(str(address) for address in said.get("addresses", ())),
            str(said.get("host", "")),
            str(said.get("process", "")),
            frozenset(Interest(DynamoEntityID.parse(e), str(topic)) for e, topic in said.get("interests", ())),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ConfigurationError) as error:
        raise MalformedRecord(f"no member: {type(error).__name__}: {error}") from None


class BucketRegistry:
    """See `Registry`; made by `open_registry`."""

    def __init__(self, bucket: Bucket, leases: Leases, ttl_s: float) -> None:
        self.view = Hierarchy()
        self.unreadable: dict[str, str] = {}
        self._bucket, self._leases, self._ttl_s = bucket, leases, ttl_s
        self._changed: dict[OnChange, None] = {}
        self._places: dict[DynamoEntityID, BucketPlace] = {}
        self._ready = asyncio.Event()
        self._there: dict[str, tuple[int, DynamoEntityID | None]] = {}
        """Revision and entity of what was folded, by key."""

    async def join(self, member: Member, timeout: float = 30.0) -> BucketPlace:
        self.view.check(member)
        lease = None
        if not member.entity.is_collection:
            lease = await self._leases.grant(self._ttl_s, owner=str(member.entity), timeout=timeout)
            # A token may be 0, and life 0 stands for whichever lives.
            member = replace(member, entity=member.entity.in_life(lease.token + 1))
        place = BucketPlace(self._bucket, self._leases, lease, member, timeout, self)
        if lease is not None:
            self._places[member.entity] = place
        try:
            await place.take()
            await self.catch_up()
            if (why := self.view.broken.get(member.entity)) is not None:
                raise ConfigurationError(f"{member.entity}: {why}")
        except BaseException:
            await place.leave()
            raise
        return place

    async def refresh(self, timeout: float = 30.0) -> int:
        await self._bucket.barrier(timeout)
        return await self.catch_up()

    async def catch_up(self) -> int:
        """Folds what the watch has yet to tell: the bucket is ahead of it, and of one moment."""
        entries = await self._bucket.entries(PREFIX)
        revision, keys = self._bucket.revision, {entry.key for entry in entries}
        for key in [key for key in self._there if key not in keys]:
            self._gone(key, revision)
        for entry in sorted(entries, key=lambda entry: entry.revision):
            self._came(entry)
        self.view.offset = max(self.view.offset, revision)
        return self.view.offset

    def on_change(self, changed: OnChange) -> Callable[[], None]:
        self._changed[changed] = None
        return lambda: self._changed.pop(changed, None) and None

    async def run(self) -> None:
        """Folds what happens to the bucket, until it is cancelled."""
        async with self._bucket.watch(prefix=PREFIX) as watch:
            async for event in watch:
                match event:
                    case Present(entry) | Changed(entry) if entry.op is Op.PUT:
                        self._came(entry)
                    case Changed(entry) if entry.revision > self._there.get(entry.key, _NOBODY)[0]:
                        self._gone(entry.key, entry.revision)
                    case Resync():
                        await self.catch_up()
                    case Ready():
                        self._ready.set()

    def left(self, place: BucketPlace) -> None:
        """The place was given back."""
        if self._places.get(place.member.entity) is place:
            del self._places[place.member.entity]

    async def ready(self, timeout: float) -> None:
        """Returns once all that the bucket had at the beginning is in the view."""
        async with asyncio.timeout(timeout):
            await self._ready.wait()

    def _came(self, entry: Entry) -> None:
        if entry.revision <= self._there.get(entry.key, _NOBODY)[0]:
            return  # it was folded ahead of the watch
        try:
            member = read_member(entry.value)
            if key_of(member.entity) != entry.key:
                raise MalformedRecord(f"it says that it is {member.entity}")
        except MalformedRecord as error:
            self._gone(entry.key, entry.revision)
            self.unreadable[entry.key] = str(error)
            return
        self.unreadable.pop(entry.key, None)
        self._there[entry.key] = (entry.revision, member.entity)
        self.view.put(member, max(self.view.offset, entry.revision))
        if (place := self._places.get(member.entity)) is not None:
            place.seen(member.entity.incarnation)
        self._tell(member.entity)

    def _gone(self, key: str, revision: int) -> None:
        self.unreadable.pop(key, None)
        _, entity = self._there.pop(key, _NOBODY)
        if entity is not None:
            self.view.remove(entity, max(self.view.offset, revision))
            self._tell(entity)

    def _tell(self, entity: DynamoEntityID) -> None:
        for changed in list(self._changed):
            changed(entity)


_NOBODY: tuple[int, DynamoEntityID | None] = (-1, None)


class BucketPlace:
    """See `Place`."""

    def __init__(
        self,
        bucket: Bucket,
        leases: Leases,
        lease: HeldLease | None,
        member: Member,
        timeout: float,
        registry: BucketRegistry,
    ) -> None:
        self.member = member
        self.revision = -1
        self.over = asyncio.Event()
        self.reason: DynlogError | None = None
        self._bucket, self._leases, self._lease, self._timeout = bucket, leases, lease, timeout
        self._registry = registry
        self._watching = None if lease is None else asyncio.create_task(self._until_lost(lease))

    async def _until_lost(self, lease: HeldLease) -> None:
        await lease.lost.wait()
        self._stop(
            LeaseLost(
                f"{self.member.entity} must stop: the log has not heard of it in time",
                bucket=self._bucket.name,
                lease=lease.id,
            )
        )

    def seen(self, incarnation: int) -> None:
        """A life of the member was registered."""
        if incarnation > self.member.entity.incarnation:
            self._stop(self._fenced(incarnation))

    def _stop(self, reason: DynlogError) -> None:
        if self.reason is None:
            self.reason = reason
            self.over.set()

    def _fenced(self, incarnation: int) -> EntityFenced:
        return EntityFenced(
            f"incarnation {incarnation} of {self.member.entity} is there: this one must stop",
            bucket=self._bucket.name, key=key_of(self.member.entity), incarnation=incarnation,
        )  # fmt: skip

    async def update(self, member: Member) -> int:
        if self.reason is not None:
            raise self.reason
        self.member = replace(member, entity=self.member.entity)
        await self.take()
        return await self._registry.catch_up()

    async def take(self) -> None:
        """Writes the member in the place of any earlier life; raises EntityFenced if a later one is there."""
        key, value = key_of(self.member.entity), write_member(self.member)
        lease = None if self._lease is None else self._lease.id
        for _ in range(ATTEMPTS):
            entry = await self._bucket.get(key, linearizable=True, timeout=self._timeout)
            self._check(entry)
            with suppress(KeyExists, RevisionConflict):
                if entry is None:
                    self.revision = await self._bucket.create(key, value, lease=lease, timeout=self._timeout)
                else:
                    self.revision = await self._bucket.update(
                        key, value, entry.revision, lease=lease, timeout=self._timeout
                    )
                return
        raise RevisionConflict(
            f"{self.member.entity} was written {ATTEMPTS} times by others while it joined: who are they?",
            bucket=self._bucket.name, key=key, revision=None,
        )  # fmt: skip

    async def leave(self) -> None:
        self._registry.left(self)
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        if self.revision >= 0 and self._lease is not None:
            # Whoever took the place meanwhile keeps it; without a log the lease ends by itself.
            with suppress(DynlogError):
                await self._bucket.delete(key_of(self.member.entity), self.revision, timeout=self._timeout)
        if self._lease is not None:
            with suppress(DynlogError):
                await self._leases.revoke(self._lease, timeout=self._timeout)

    def _check(self, entry: Entry | None) -> None:
        if entry is None:
            return
        with suppress(MalformedRecord):
            there = read_member(entry.value).entity.incarnation
            if there > self.member.entity.incarnation:
                raise self._fenced(there)


@asynccontextmanager
async def open_registry(
    bucket: Bucket, *, ttl_s: float = TTL_S, timeout: float = 30.0
) -> AsyncIterator[BucketRegistry]:
    """A registry on a bucket, which follows it until the end of the block; whoever has not left by then, leaves."""
    async with Leases(bucket) as leases:
        registry = BucketRegistry(bucket, leases, ttl_s)
        running = asyncio.create_task(registry.run(), name=f"dynlog-registry {bucket.name}")
        try:
            await registry.ready(timeout)
            yield registry
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
