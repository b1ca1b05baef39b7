"""The registry of a fleet: members in a bucket of the log, each under a lease; its offset is the bucket's revision.

What `refresh` and a write return is folded already; what others do comes by a watch.  Listeners are told once all of a
moment is folded, never in the middle of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain

from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, DynlogError, MalformedRecord
from dynlog.kv.bucket import Bucket
from dynlog.kv.leases import Leases
from dynlog.kv.rows import Entry, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync
from dynlog.network.hierarchy import Hierarchy, Member
from dynlog.network.registry import Changed as OnChange
from dynlog.network.registry_place import BucketPlace
from dynlog.network.registry_records import PREFIX, read_member
from dynlog.tasks import end_task

TTL_S = 10.0

_log = logging.getLogger(__name__)
_NOBODY: tuple[int, DynamoEntityID | None] = (-1, None)


class BucketRegistry:
    """See `Registry`; made by `open_registry`."""

    def __init__(self, bucket: Bucket, leases: Leases, ttl_s: float) -> None:
        self.view = Hierarchy()
        self.unreadable: dict[str, str] = {}
        """What lies under a member's key and is none, and why."""
        self._bucket, self._leases, self._ttl_s = bucket, leases, ttl_s
        self._changed: dict[OnChange, None] = {}
        self._places: dict[DynamoEntityID, list[BucketPlace]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: DynlogError | None = None
        self._there: dict[str, tuple[int, DynamoEntityID | None]] = {}
        """Revision and entity of what was folded, by key; while something is read, also what went meanwhile."""
        self._catching = asyncio.Lock()
        self._caught = -1
        """Up to here all is folded, whatever the watch has yet to tell."""

    async def join(self, member: Member, timeout: float = 30.0) -> BucketPlace:
        self._check()
        self.view.check(member)
        lease = None
        if not member.entity.is_collection:
            lease = await self._leases.grant(self._ttl_s, owner=str(member.entity), timeout=timeout)
            # A token may be 0, and life 0 stands for whichever lives.
            member = replace(member, entity=member.entity.in_life(lease.token + 1))
        place = BucketPlace(self._bucket, self._leases, lease, member, timeout, self)
        if lease is not None:
            self._places.setdefault(member.entity, []).append(place)
        try:
            await place.take(member)
        except BaseException:
            await place.leave()
            raise
        return place

    async def refresh(self, timeout: float = 30.0) -> int:
        self._check()
        await self._bucket.barrier(timeout)
        return (await self.catch_up()).offset

    async def catch_up(self) -> Hierarchy:
        """Folds what the watch has yet to tell: the bucket is ahead of it, and of one moment."""
        async with self._catching:
            revision = self._bucket.revision
            entries = await self._bucket.entries(PREFIX)
            # Where these are many others had their turn meanwhile, and the watch may be ahead by now.
            keys = {entry.key for entry in entries}
            changed = [
                self._gone(key, revision)
                for key, (at, _) in list(self._there.items())
                if key not in keys and at <= revision
            ]
            changed += [self._came(entry) for entry in sorted(entries, key=lambda entry: entry.revision)]
            self._there = {key: there for key, there in self._there.items() if there[1] is not None}
            self._caught = max(self._caught, revision)
            self.view.offset = max(self.view.offset, revision)
        self._tell(changed)
        return self.view

    def on_change(self, changed: OnChange) -> Callable[[], None]:
        self._changed[changed] = None
        return lambda: self._changed.pop(changed, None) and None

    def left(self, place: BucketPlace) -> None:
        """The place was given back."""
        entity = place.member.entity
        others = [other for other in self._places.pop(entity, ()) if other is not place]
        if others:
            self._places[entity] = others

    async def run(self) -> None:
        """Folds what happens to the bucket, until it is cancelled; if it can no longer, all who joined must stop."""
        try:
            await self._follow()
        except DynlogError as error:
            self._failure = error
            _log.error("the registry in bucket %r ended: %s", self._bucket.name, error)
            for place in chain.from_iterable(self._places.values()):
                place.stop(error)
            if not self._ready.done():
                self._ready.set_exception(error)

    async def ready(self, timeout: float) -> None:
        """Returns once all that the bucket had at the beginning is in the view."""
        async with asyncio.timeout(timeout):
            await self._ready

    async def _follow(self) -> None:
        async with self._bucket.watch(prefix=PREFIX) as watch:
            async for event in watch:
                match event:
                    case Present(entry) | Changed(entry) if entry.revision > self._caught:
                        at = self._there.get(entry.key, _NOBODY)[0]
                        if entry.op is Op.PUT:
                            self._tell([self._came(entry)])
                        elif entry.revision > at:
                            self._tell([self._gone(entry.key, entry.revision)])
                    case Resync():
                        await self.catch_up()
                    case Ready() if not self._ready.done():
                        self._ready.set_result(None)

    def _check(self) -> None:
        if self._failure is not None:
            raise Closed(f"the registry in bucket {self._bucket.name!r} ended: {self._failure}")

    def _came(self, entry: Entry) -> DynamoEntityID | None:
        if entry.revision <= self._there.get(entry.key, _NOBODY)[0]:
            return None  # it was folded already
        try:
            member, since = read_member(entry)
        except MalformedRecord as error:
            gone = self._gone(entry.key, entry.revision)
            self.unreadable[entry.key] = str(error)
            return gone
        self.unreadable.pop(entry.key, None)
        self._there[entry.key] = (entry.revision, member.entity)
        self.view.put(member, max(self.view.offset, entry.revision), since=since, joined=entry.created)
        for place in self._places.get(member.entity, ()):
            place.seen(member.entity.incarnation)
        return member.entity

    def _gone(self, key: str, revision: int) -> DynamoEntityID | None:
        self.unreadable.pop(key, None)
        _, entity = self._there.pop(key, _NOBODY)
        if self._catching.locked():
            self._there[key] = (revision, None)  # else what was read before that would bring it back
        if entity is None:
            return None
        self.view.remove(entity, max(self.view.offset, revision))
        for place in self._places.get(entity, ()):
            place.gone(revision)
        return entity

    def _tell(self, entities: Iterable[DynamoEntityID | None]) -> None:
        for entity in entities:
            if entity is not None:
                for changed in list(self._changed):
                    changed(entity)


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
            await end_task(running)
