"""Where members are looked up: the contract, and a registry within one process.

A look at the registry is of one offset: whoever asks twice can tell whether anything changed between.  The registry of
a fleet is a bucket of the log (`dynlog.network.bucket_registry`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from dynlog.entity import DynamoEntityID
from dynlog.errors import DynlogError, EntityFenced
from dynlog.network.hierarchy import Hierarchy, Member

Changed = Callable[[DynamoEntityID], None]


class Place(Protocol):
    """One member's place in a registry, held until it is left."""

    @property
    def member(self) -> Member:
        """As it is registered, with its incarnation."""

    @property
    def over(self) -> asyncio.Event:
        """Set once the member must stop: a later life of it is there, or its lease is lost."""

    @property
    def reason(self) -> DynlogError | None:
        """Why it must stop."""

    async def update(self, member: Member) -> int:
        """Says something else of the member; returns the offset of it.  Raises why it must stop, if it must."""

    async def leave(self) -> None:
        """Gives the place back, unless a later life has it."""


class Registry(Protocol):
    """Who is there."""

    @property
    def view(self) -> Hierarchy:
        """As this process knows it now; it changes under whoever keeps it, never within a look without an await."""

    async def join(self, member: Member) -> Place:
        """Registers a later life of the member than any before; raises ConfigurationError if it closed a circle."""

    async def refresh(self, timeout: float = 30.0) -> int:
        """Returns once `view` holds all that was there when this was called; its offset.

        Raises DeadlineExceeded, LogUnavailable.
        """

    def on_change(self, changed: Changed) -> Callable[[], None]:
        """Calls ``changed`` with each entity that comes, goes or says something else; returns how to end that."""


class LocalRegistry:
    """A registry for the managers of one process; it ends with it."""

    def __init__(self) -> None:
        self.view = Hierarchy()
        self._life = 0
        """Of whoever joined last."""
        self._places: dict[DynamoEntityID, LocalPlace] = {}
        self._changed: dict[Changed, None] = {}

    async def join(self, member: Member) -> LocalPlace:
        self.view.check(member)
        entity = member.entity
        if not entity.is_collection:
            self._life = max(self._life + 1, entity.incarnation)
            member = replace(member, entity=entity.in_life(self._life))
        if (earlier := self._places.get(entity)) is not None and not entity.is_collection:
            earlier.fence(member.entity.incarnation)
        place = self._places[entity] = LocalPlace(self, member)
        self.say(member)
        return place

    async def refresh(self, timeout: float = 30.0) -> int:
        return self.view.offset

    def on_change(self, changed: Changed) -> Callable[[], None]:
        self._changed[changed] = None
        return lambda: self._changed.pop(changed, None) and None

    def say(self, member: Member) -> int:
        """Takes what a member says of itself."""
        view, entity = self.view, member.entity
        view.put(
            member, view.offset + 1, time_ms=int(time.time() * 1000), since=view.since(entity),
            joined=view.joined(entity) or None,
        )  # fmt: skip
        self._tell(entity)
        return self.view.offset

    def forget(self, place: LocalPlace) -> None:
        """The member leaves, unless a later life is there."""
        entity = place.member.entity
        if self._places.get(entity) is place:
            del self._places[entity]
            self.view.remove(entity, self.view.offset + 1)
            self._tell(entity)

    def _tell(self, entity: DynamoEntityID) -> None:
        for changed in list(self._changed):
            changed(entity)


class LocalPlace:
    """See `Place`."""

    def __init__(self, registry: LocalRegistry, member: Member) -> None:
        self.member = member
        self.over = asyncio.Event()
        self.reason: DynlogError | None = None
        self._registry = registry

    def fence(self, incarnation: int) -> None:
        """A later life of the member is there."""
        entity = self.member.entity
        self.reason = EntityFenced(
            f"incarnation {incarnation} of {entity} is there: this one must stop",
            bucket="this process", key=str(entity), incarnation=incarnation,
        )  # fmt: skip
        self.over.set()

    async def update(self, member: Member) -> int:
        if self.reason is not None:
            raise self.reason
        member = replace(member, entity=self.member.entity)
        self._registry.view.check(member)
        self.member = member
        return self._registry.say(member)

    async def leave(self) -> None:
        self._registry.forget(self)
