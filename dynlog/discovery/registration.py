"""An entity is there as long as its lease lives; a later life of the same name takes its place and the old one is told.

The incarnation of a life is the fencing token of its lease, which only rises.  Of two lives that want one name the
later one has it, in whatever order they ask: the earlier one is refused, or, if it is there already, fenced.

A life takes its place once, as its block begins: no update brings back what is gone, and whatever was written for a
block that did not begin, or has ended, is taken away again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from dynlog.discovery.foreign import FOREIGN
from dynlog.discovery.models import Entity, parse_entity
from dynlog.errors import (
    Closed,
    DynlogError,
    EntityFenced,
    KeyExists,
    KeyNotFound,
    LeaseLost,
    MalformedRecord,
    RevisionConflict,
)
from dynlog.kv.bucket import Bucket
from dynlog.kv.records import Barrier
from dynlog.kv.rows import Entry, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync
from dynlog.log import DEFAULT_TIMEOUT_S
from dynlog.tasks import end_task, ended
from dynlog.timing import Deadline

ATTEMPTS = 100
"""A name that changes more often than this between a look and a write is fought over, not registered."""
GIVE_BACK_S = 5.0
"""What could not be given back within this ends with its lease."""


class LeaseLike(Protocol):
    """What a registration needs of a lease."""

    @property
    def id(self) -> str:
        """Its id in the bucket."""

    @property
    def token(self) -> int:
        """Its fencing token: higher for every later lease."""

    @property
    def lost(self) -> asyncio.Event:
        """Set once its holder has to stop."""


class Registration:
    """An entity's place; an async context manager that takes it at the beginning and gives it back at the end.

    ``over`` is set once the entity must stop, and ``reason`` says why: fenced by a later life, lease lost, deleted.
    """

    def __init__(self, bucket: Bucket, entity: Entity, lease: LeaseLike, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self.entity = entity.model_copy(update={"incarnation": lease.token})
        self.over = asyncio.Event()
        self.reason: DynlogError | None = None
        self.revision = -1
        self._bucket, self._lease, self._timeout = bucket, lease, timeout
        self._key = entity.name.key
        self._watching: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._left = False
        self._unsure = False
        """Whether something may have been written, or may yet be, at a revision that nobody was told."""

    async def update(
        self, *, addresses: Mapping[str, str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> int:
        """Says something else of the entity from now on; returns the revision.

        Raises EntityFenced, LeaseLost and KeyNotFound if it must stop, Closed before its block began and once it ends,
        and what `Bucket.update` raises.
        """
        changes: dict[str, Any] = {} if metadata is None else {"metadata": dict(metadata)}
        if addresses is not None:
            changes |= {"addresses": dict(addresses), "transport": dict(list(addresses.items())[:1]) or None}
        async with self._turn:
            deadline = Deadline(self._timeout)
            for _ in range(ATTEMPTS):
                self._refuse_if_over()
                there = await self._bucket.get(self._key, linearizable=True, timeout=deadline.remaining)
                entity = Entity.model_validate({**self._ours(there).model_dump(), **changes})
                if await self._write(entity, there, deadline):
                    return self.revision
            raise self._fought_over()

    async def __aenter__(self) -> Self:
        try:
            await self._take()
        except BaseException:
            await self._leave()
            raise
        self._watching = asyncio.create_task(self._watch(), name=f"dynlog-registration {self.entity.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._watching is not None
        self._left = True
        try:
            await end_task(self._watching)
        finally:
            if self.reason is None:
                await self._leave()

    async def _take(self) -> None:
        """Writes the entity in the place of any earlier life, foreign entity or thing that is none."""
        deadline = Deadline(self._timeout)
        for _ in range(ATTEMPTS):
            there = await self._bucket.get(self._key, linearizable=True, timeout=deadline.remaining)
            self._refuse_if_fenced(there)
            if await self._write(self.entity, there, deadline):
                if there is not None and _incarnation(there, self.entity) is None:
                    await self._bucket.delete(FOREIGN + self._key, timeout=deadline.remaining)
                return
        raise self._fought_over()

    async def _write(self, entity: Entity, there: Entry | None, deadline: Deadline) -> bool:
        """Writes it in the place of what was there; False if that has changed meanwhile."""
        bucket, key, lease, value = self._bucket, self._key, self._lease.id, entity.to_bytes()
        self._unsure = True
        try:
            if there is None:
                self.revision = await bucket.create(key, value, lease=lease, timeout=deadline.remaining)
            else:
                self.revision = await bucket.update(key, value, there.revision, lease=lease, timeout=deadline.remaining)
        except (KeyExists, RevisionConflict):
            return False
        self.entity, self._unsure = entity, False
        return True

    async def _leave(self) -> None:
        """Returns once nothing of this life is there, or its lease has to end it; a cancellation is raised then."""
        giving = asyncio.create_task(self._give_back(), name=f"dynlog-leaving {self.entity.name}")
        await ended(giving)
        giving.result()

    async def _give_back(self) -> None:
        async with self._turn:  # an update that is under way has its own time limit
            deadline = Deadline(min(self._timeout, GIVE_BACK_S))
            # Whoever took the name meanwhile keeps it, and without a log the lease ends by itself.
            with suppress(DynlogError):
                if self._unsure:
                    # It comes behind whatever of ours is still on its way: after it the answer is final.
                    await self._bucket.say(Barrier(), timeout=deadline.remaining)
                    there = await self._bucket.get(self._key)
                    mine = there is not None and _incarnation(there, self.entity) == self._lease.token
                    self.revision = there.revision if there is not None and mine else -1
                if self.revision >= 0:
                    await self._bucket.delete(self._key, self.revision, timeout=deadline.remaining)

    def _refuse_if_over(self) -> None:
        if self.reason is not None:
            raise self.reason
        if self._watching is None or self._left:
            when = "has ended" if self._left else "has not begun"
            raise Closed(f"{self.entity.name} is not registered: its block {when}, and only there it can be updated")

    def _ours(self, there: Entry | None) -> Entity:
        """What this life says of itself now; raises if it has no place any more."""
        if there is None:
            raise KeyNotFound(
                f"{self.entity.name} is registered no longer: it was deleted, its lease ended, or a later life of it "
                "came and left; it must stop",
                bucket=self._bucket.name,
                key=self._key,
            )
        if (reason := self._gone(there)) is not None:
            raise reason
        return parse_entity(self.entity.name, there.value)

    def _fought_over(self) -> RevisionConflict:
        return RevisionConflict(
            f"{self.entity.name} was written {ATTEMPTS} times by others while it was to be registered: who are they?",
            bucket=self._bucket.name,
            key=self._key,
            revision=None,
        )

    def _refuse_if_fenced(self, there: Entry | None) -> None:
        other = None if there is None else _incarnation(there, self.entity)
        if other is not None and other > self._lease.token:
            raise EntityFenced(
                f"incarnation {other} of {self.entity.name} is there, this is {self._lease.token}: it must stop",
                bucket=self._bucket.name,
                key=self._key,
                incarnation=other,
            )

    async def _watch(self) -> None:
        """Until the entity must stop."""
        lost = asyncio.create_task(self._lease.lost.wait())
        kept = asyncio.create_task(self._until_taken())
        try:
            await asyncio.wait([lost, kept], return_when=asyncio.FIRST_COMPLETED)
            self.reason = kept.result() if kept.done() else self._lease_lost("its holder has to stop")
        except DynlogError as error:
            self.reason = error
        finally:
            for task in (lost, kept):
                task.cancel()
            await asyncio.gather(lost, kept, return_exceptions=True)
        self.over.set()

    async def _until_taken(self) -> DynlogError:
        """Why the entity is no longer in its place, once it is not."""
        there = False
        async with self._bucket.watch(key=self._key) as watch:
            async for event in watch:
                match event:
                    case Present(entry) | Changed(entry):
                        there = True
                        if (reason := self._gone(entry)) is not None:
                            return reason
                    case Resync():
                        there = False
                    case Ready() if not there:
                        return self._lease_lost("its key is gone")
        return Closed(f"bucket {self._bucket.name!r} was closed")

    def _gone(self, entry: Entry) -> DynlogError | None:
        if entry.op is Op.DELETE:
            return KeyNotFound("somebody deleted the entity", bucket=self._bucket.name, key=self._key)
        if entry.op is not Op.PUT:
            return self._lease_lost("it has ended, and its keys are gone")
        other = _incarnation(entry, self.entity)
        if other == self._lease.token:
            return None
        return EntityFenced(
            f"{self.entity.name} has another life ({'foreign' if other is None else f'incarnation {other}'}), this is "
            f"{self._lease.token}: it must stop",
            bucket=self._bucket.name,
            key=self._key,
            incarnation=-1 if other is None else other,
        )

    def _lease_lost(self, why: str) -> LeaseLost:
        return LeaseLost(
            f"lease {self._lease.id!r}: {why}; {self.entity.name} is registered no longer",
            bucket=self._bucket.name,
            lease=self._lease.id,
            key=self._key,
        )


def _incarnation(entry: Entry, entity: Entity) -> int | None:
    """Of what lies there; None for what is foreign or no entity at all."""
    try:
        return parse_entity(entity.name, entry.value).incarnation
    except MalformedRecord:
        return None
