"""An entity is there as long as its lease lives; a later life of the same name takes its place and the old one is told.

The incarnation of a life is the fencing token of its lease, which only rises.  Of two lives that want one name the
later one has it, in whatever order they ask: the earlier one is refused, or, if it is there already, fenced.
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
from dynlog.kv.rows import Entry, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync
from dynlog.log import DEFAULT_TIMEOUT_S
from dynlog.tasks import end_task
from dynlog.timing import Deadline

ATTEMPTS = 100
"""A name that changes more often than this between a look and a write is fought over, not registered."""


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

    async def update(
        self, *, addresses: Mapping[str, str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> int:
        """Says something else of the entity from now on; returns the revision.

        Raises EntityFenced and LeaseLost if it must stop, and what `Bucket.update` raises.
        """
        if self.reason is not None:
            raise self.reason
        changes: dict[str, Any] = {} if metadata is None else {"metadata": dict(metadata)}
        if addresses is not None:
            changes |= {"addresses": dict(addresses), "transport": dict(list(addresses.items())[:1]) or None}
        self.entity = Entity.model_validate({**self.entity.model_dump(), **changes})
        await self._take()
        return self.revision

    async def __aenter__(self) -> Self:
        await self._take()
        self._watching = asyncio.create_task(self._watch(), name=f"dynlog-registration {self.entity.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._watching is not None
        try:
            await end_task(self._watching)
        finally:
            if self.reason is None:
                # Whoever took the name meanwhile keeps it, and without a log the lease ends by itself.
                with suppress(DynlogError):
                    await self._bucket.delete(self._key, self.revision, timeout=self._timeout)

    async def _take(self) -> None:
        """Writes the entity in the place of any earlier life, foreign entity or thing that is none."""
        deadline = Deadline(self._timeout)
        value = self.entity.to_bytes()
        for _ in range(ATTEMPTS):
            there = await self._bucket.get(self._key, linearizable=True, timeout=deadline.remaining)
            self._refuse_if_fenced(there)
            try:
                if there is None:
                    self.revision = await self._bucket.create(
                        self._key, value, lease=self._lease.id, timeout=deadline.remaining
                    )
                else:
                    self.revision = await self._bucket.update(
                        self._key, value, there.revision, lease=self._lease.id, timeout=deadline.remaining
                    )
            except (KeyExists, RevisionConflict):
                continue
            if there is not None and _incarnation(there, self.entity) is None:
                await self._bucket.delete(FOREIGN + self._key, timeout=deadline.remaining)
            return
        raise RevisionConflict(
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
