"""Who belongs to whom, folded from what entities say of themselves: the same records give the same hierarchy anywhere.

An entity names its parents.  An edge that would close a circle is not taken, and is named in `broken`: of two that
close one together the later in the log is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError

MAX_PARENTS = 64
MAX_ADDRESSES = 32
MAX_INTERESTS = 4096


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


class Hierarchy:
    """All members as of one offset."""

    def __init__(self) -> None:
        self.offset = 0
        self.broken: dict[DynamoEntityID, str] = {}
        """Why an edge of that entity was not taken."""
        self._members: dict[DynamoEntityID, Member] = {}
        self._parents: dict[DynamoEntityID, dict[DynamoEntityID, None]] = {}
        self._children: dict[DynamoEntityID, dict[DynamoEntityID, None]] = {}

    def put(self, member: Member, offset: int) -> None:
        """The entity is there, or says something else than before."""
        entity = member.entity
        self._unlink(entity)
        self.broken.pop(entity, None)
        self._members[entity] = member
        for parent in member.parents:
            if parent == entity or self.is_below(parent, entity):
                self.broken[entity] = f"{parent} belongs to {entity} already: they would contain each other"
                continue
            self._parents.setdefault(entity, {})[parent] = None
            self._children.setdefault(parent, {})[entity] = None
        self.offset = offset

    def remove(self, entity: DynamoEntityID, offset: int) -> None:
        """The entity is gone."""
        self._unlink(entity)
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

    def _unlink(self, entity: DynamoEntityID) -> None:
        for parent in self._parents.pop(entity, ()):
            children = self._children[parent]
            del children[entity]
            if not children:
                del self._children[parent]

    @staticmethod
    def _walk(
        start: DynamoEntityID, edges: dict[DynamoEntityID, dict[DynamoEntityID, None]]
    ) -> Iterator[DynamoEntityID]:
        seen = {start}
        queue = [start]
        while queue:
            for entity in edges.get(queue.pop(), ()):
                if entity not in seen:
                    seen.add(entity)
                    queue.append(entity)
                    yield entity
