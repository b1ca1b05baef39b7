"""Who is there: lists and watches of the entities in a bucket, all as of one revision and never with a silent gap.

An entity that cannot be read does not hide the others: it is listed as unreadable, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from dynlog.discovery.foreign import FOREIGN, ForeignMark
from dynlog.discovery.models import Entity, ModelCard, parse_card, parse_entity
from dynlog.discovery.names import INSTANCES, MODELS, InstanceName, ModelName, parse_key, prefix_of
from dynlog.discovery.registration import LeaseLike, Registration
from dynlog.errors import MalformedRecord
from dynlog.kv.bucket import Bucket, entries_of
from dynlog.kv.rows import Entry, Op
from dynlog.kv.watch import Changed, Present, Ready, Resync
from dynlog.log import DEFAULT_TIMEOUT_S

BUCKET = "discovery"
"""Where entities are, unless somebody says otherwise."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entity that is there."""

    name: InstanceName
    entity: Entity
    revision: int
    lease: str
    """What it hangs on; "" for an entity that stays until it is deleted."""
    foreign: ForeignMark | None = None
    """Where it was imported from, if it was."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model card that is there."""

    name: ModelName
    card: ModelCard
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Who was there as of one revision."""

    revision: int
    entities: list[Found]
    models: list[FoundModel]
    unreadable: dict[str, str]
    """Why, by key."""


class Joined(NamedTuple):
    """An entity is there, or says something else than before; a higher incarnation is a later life of it."""

    found: Found


class Left(NamedTuple):
    """An entity is gone: deleted, or its lease ended."""

    name: InstanceName
    revision: int
    lease_ended: bool


class Unreadable(NamedTuple):
    """Something lies under an entity's key that is none."""

    key: str
    reason: str


Seen = Joined | Left | Unreadable | Ready | Resync


class Directory:
    """The entities of one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    async def list(
        self,
        namespace: str | None = None,
        component: str | None = None,
        endpoint: str | None = None,
        *,
        linearizable: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Listing:
        """Everybody in that namespace, component or endpoint, by name, as of one revision; raises as `Bucket.get`."""
        where = prefix_of(namespace, component, endpoint)
        if linearizable:
            await self.bucket.barrier(timeout)
        self.bucket.follower.check()
        # Nothing is awaited between these, so they are of one moment, however long walking takes then.
        revision = self.bucket.revision
        walks = [self.bucket.follower.fold.walk(root + where) for root in (INSTANCES, MODELS, FOREIGN + INSTANCES)]
        instances, cards, marked = [await entries_of(rows) for rows in walks]
        marks = {entry.key: entry.value for entry in marked}
        entities: list[Found] = []
        models: list[FoundModel] = []
        unreadable: dict[str, str] = {}
        for entry in instances:
            try:
                entities.append(_found(entry, marks.get(FOREIGN + entry.key)))
            except MalformedRecord as error:
                unreadable[entry.key] = str(error)
        for entry in cards:
            try:
                name = parse_key(entry.key)
                assert isinstance(name, ModelName)
                models.append(FoundModel(name, parse_card(name, entry.value), entry.revision))
            except MalformedRecord as error:
                unreadable[entry.key] = str(error)
        return Listing(
            revision, sorted(entities, key=lambda e: e.name), sorted(models, key=lambda m: m.name), unreadable
        )

    async def get(
        self, name: InstanceName, *, linearizable: bool = False, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Found | None:
        """That entity, None if it is not there; raises as `Bucket.get`, MalformedRecord if what is there is none."""
        entry = await self.bucket.get(name.key, linearizable=linearizable, timeout=timeout)
        if entry is None:
            return None
        mark = await self.bucket.get(FOREIGN + name.key)
        return _found(entry, None if mark is None else mark.value)

    def watch(
        self,
        namespace: str | None = None,
        component: str | None = None,
        endpoint: str | None = None,
        *,
        from_revision: int | None = None,
    ) -> DirectoryWatch:
        """Everybody there, `Ready`, then whoever joins and leaves, as `Bucket.watch` does it."""
        return DirectoryWatch(self.bucket, INSTANCES + prefix_of(namespace, component, endpoint), from_revision)

    def register(self, entity: Entity, lease: LeaseLike, *, timeout: float = DEFAULT_TIMEOUT_S) -> Registration:
        """The entity's place, taken by ``async with`` and held while the lease lives: see `Registration`."""
        return Registration(self.bucket, entity, lease, timeout=timeout)


class DirectoryWatch:
    """One watcher; an async context manager whose block may iterate over it."""

    def __init__(self, bucket: Bucket, prefix: str, from_revision: int | None) -> None:
        self._bucket = bucket
        self._watch = bucket.watch(prefix=prefix, from_revision=from_revision)

    def __aiter__(self) -> AsyncIterator[Seen]:
        return self._events()

    async def _events(self) -> AsyncIterator[Seen]:
        async for event in self._watch:
            match event:
                case Present(entry):
                    yield await self._seen(entry)
                case Changed(entry):
                    yield await self._seen(entry)
                case _:
                    yield event

    async def _seen(self, entry: Entry) -> Seen:
        try:
            if entry.op is Op.PUT:
                mark = await self._bucket.get(FOREIGN + entry.key)
                return Joined(_found(entry, None if mark is None else mark.value))
            return Left(_instance(entry.key), entry.revision, entry.op is not Op.DELETE)
        except MalformedRecord as error:
            return Unreadable(entry.key, str(error))

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._watch.__aexit__(kind, error, traceback)


def _found(entry: Entry, mark: bytes | None) -> Found:
    name = _instance(entry.key)
    entity = parse_entity(name, entry.value)
    # A mark outlives the foreign entity if one of ours takes its place in the same instant: it is not about that.
    foreign = ForeignMark.from_bytes(mark) if mark is not None and entity.foreign else None
    return Found(name, entity, entry.revision, entry.lease, foreign)


def _instance(key: str) -> InstanceName:
    name = parse_key(key)
    if not isinstance(name, InstanceName):
        raise MalformedRecord(f"key {key!r} is no instance's")
    return name
