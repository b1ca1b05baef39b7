"""Who belongs to whom, folded from what entities say of themselves: the same records give the same hierarchy anywhere.

An entity names its parents.  An edge that would close a circle is not taken, and is named in `broken`: of two that
close one together the later in the log is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError

MAX_PARENTS = 64
MAX_ADDRESSES = 32
MAX_INTERESTS = 4096
REMEMBERED_EDGES = 65_536


class Interest(NamedTuple):
    """What a process subscribes to: events that reach that entity, on that topic."""

    entity: DynamoEntityID
    topic: str


@dataclass(frozen=True, slots=True)
class Member:
    """An entity as it says of itself."""

    entity: DynamoEntityID
    parents: tuple[DynamoEntityID, ...] = ()
    """The collections that it belongs to."""
    addresses: tuple[str, ...] = ()
    """Where its process listens, best first."""
    host: str = ""
    """Which machine it runs on; the same text means the same machine."""
    process: str = ""
    """Which process it runs in."""
    interests: frozenset[Interest] = frozenset()

    def __post_init__(self) -> None:
        for what, count, most in (
            ("parents", len(self.parents), MAX_PARENTS), ("addresses", len(self.addresses), MAX_ADDRESSES),
            ("interests", len(self.interests), MAX_INTERESTS),
        ):  # fmt: skip
            if count > most:
                raise ConfigurationError(f"{self.entity} has {count} {what}: at most {most} are allowed")
        for parent in self.parents:
            if not parent.is_collection:
                raise ConfigurationError(f"{self.entity} cannot belong to {parent}: only a collection has members")


class _Past(NamedTuple):
    """An edge that is no longer: it was there from ``since`` on, and at ``until`` no more."""

    child: DynamoEntityID
    parent: DynamoEntityID
    since: int
    until: int


class Hierarchy:
    """All members as of one offset."""

    def __init__(self) -> None:
        self.offset = 0
        self.broken: dict[DynamoEntityID, str] = {}
        """Why an edge of that entity was not taken."""
        self._members: dict[DynamoEntityID, Member] = {}
        self._parents: dict[DynamoEntityID, dict[DynamoEntityID, int]] = {}
        """With the offset from which on each edge is there."""
        self._children: dict[DynamoEntityID, dict[DynamoEntityID, int]] = {}
        self._past: deque[_Past] = deque(maxlen=REMEMBERED_EDGES)

    def put(self, member: Member, offset: int) -> None:
        """The entity is there, or says something else than before."""
        entity = member.entity
        earlier = self._parents.get(entity, {})
        kept = {parent: earlier[parent] for parent in member.parents if parent in earlier}
        self._unlink(entity, offset, kept)
        self.broken.pop(entity, None)
        self._members[entity] = member
        for parent in member.parents:
            if parent == entity or self.is_below(parent, entity):
                self.broken[entity] = f"{parent} belongs to {entity} already: they would contain each other"
                continue
            since = kept.get(parent, offset)
            self._parents.setdefault(entity, {})[parent] = since
            self._children.setdefault(parent, {})[entity] = since
        self.offset = offset

    def remove(self, entity: DynamoEntityID, offset: int) -> None:
        """The entity is gone."""
        self._unlink(entity, offset, {})
        self.broken.pop(entity, None)
        self._members.pop(entity, None)
        self.offset = offset

    def get(self, entity: DynamoEntityID) -> Member | None:
        """What the entity says of itself, if it is there."""
        return self._members.get(entity)

    def check(self, member: Member) -> None:
        """Raises ConfigurationError if one of its edges would close a circle as things are."""
        for parent in member.parents:
            if parent == member.entity or self.is_below(parent, member.entity):
                raise ConfigurationError(
                    f"{member.entity} cannot belong to {parent}, which belongs to it: nothing contains itself"
                )

    def below(self, entity: DynamoEntityID) -> Iterator[DynamoEntityID]:
        """All that belong to it, directly or not, each once, not itself."""
        return self._walk(entity, self._children)

    def above(self, entity: DynamoEntityID) -> Iterator[DynamoEntityID]:
        """All that it belongs to, directly or not, each once, not itself."""
        return self._walk(entity, self._parents)

    def is_below(self, entity: DynamoEntityID, other: DynamoEntityID) -> bool:
        """Whether it belongs to the other, directly or not."""
        return any(above == other for above in self.above(entity))

    def was_below(self, entity: DynamoEntityID, other: DynamoEntityID, offset: int) -> bool:
        """Whether it was the other, or belonged to it, at that offset; the last 65,536 edges that ended count."""
        seen = {entity}
        queue = [entity]
        while queue:
            child = queue.pop()
            if child == other:
                return True
            parents = [parent for parent, since in self._parents.get(child, {}).items() if since <= offset]
            parents += [edge.parent for edge in self._past if edge.child == child and edge.since <= offset < edge.until]
            for parent in parents:
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
        return False

    def instances(self, entity: DynamoEntityID) -> list[Member]:
        """The instances that belong to a collection, by id; of an instance itself, if it is there."""
        if not entity.is_collection:
            return [self._members[entity]] if entity in self._members else []
        found = [self._members[e] for e in self.below(entity) if e in self._members and not e.is_collection]
        return sorted(found, key=lambda member: member.entity)

    def interested(self, entity: DynamoEntityID, topic: str) -> list[Member]:
        """The processes that an event for the entity goes to: those that subscribe to it or to anything below it."""
        reached = {entity, *self.below(entity)}
        return [
            member
            for member in self._members.values()
            if any(interest.topic == topic and interest.entity in reached for interest in member.interests)
        ]

    def members(self) -> list[Member]:
        """Everybody, by id."""
        return sorted(self._members.values(), key=lambda member: member.entity)

    def tree(self) -> str:
        """The hierarchy as text, a line an entity, indented by two spaces a level; one of two parents is under both."""
        known = {*self._members, *self._children}
        lines: list[str] = []

        def draw(entity: DynamoEntityID, depth: int) -> None:
            member = self._members.get(entity)
            shown = member.entity if member else next((p for p in self._named(entity)), entity)
            where = f"  {' '.join(member.addresses)}" if member and member.addresses else ""
            lines.append(f"{'  ' * depth}{shown}{where}")
            for child in sorted(self._children.get(entity, ()), key=lambda e: (not e.is_collection, str(e))):
                draw(child, depth + 1)

        for root in sorted((e for e in known if not self._parents.get(e)), key=lambda e: (not e.is_collection, str(e))):
            draw(root, 0)
        return "\n".join(lines)

    def _named(self, entity: DynamoEntityID) -> Iterator[DynamoEntityID]:
        """The entity as those that belong to it call it."""
        for child in self._children.get(entity, ()):
            yield from (parent for parent in self._parents.get(child, ()) if parent == entity)

    def _unlink(self, entity: DynamoEntityID, offset: int, kept: Mapping[DynamoEntityID, int]) -> None:
        for parent, since in self._parents.pop(entity, {}).items():
            children = self._children[parent]
            del children[entity]
            if not children:
                del self._children[parent]
            if parent not in kept:
                self._past.append(_Past(entity, parent, since, offset))

    @staticmethod
    def _walk(
        start: DynamoEntityID, edges: dict[DynamoEntityID, dict[DynamoEntityID, int]]
    ) -> Iterator[DynamoEntityID]:
        seen = {start}
        queue = [start]
        while queue:
            for entity in edges.get(queue.pop(), ()):
                if entity not in seen:
                    seen.add(entity)
                    queue.append(entity)
                    yield entity
