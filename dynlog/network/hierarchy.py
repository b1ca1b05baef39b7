"""Who is there and who belongs to whom, as of one offset: the same records give the same hierarchy anywhere.

An entity names its parents, where it is reached, and what its process subscribes to.  Whoever looks twice without an
await between sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.network.registry_edges import Edges, Since

MAX_PARENTS = 64
MAX_ADDRESSES = 32
MAX_INTERESTS = 4096
REMEMBERED_ANSWERS = 4096


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
        self._members: dict[DynamoEntityID, Member] = {}
        self._joined: dict[DynamoEntityID, int] = {}
        self._edges = Edges()
        self._by_topic: dict[str, dict[DynamoEntityID, Member]] = {}
        self._interested: dict[Interest, list[Member]] = {}
        """What was asked since the last change."""

    def put(
        self,
        member: Member,
        offset: int,
        *,
        time_ms: int = 0,
        since: Mapping[DynamoEntityID, Since] = MappingProxyType({}),
        joined: int | None = None,
    ) -> None:
        """The entity is there, or says something else than before.

        ``since`` says of parents where the edge to them began, if not here, and ``joined`` since when the entity has
        been there without a break.
        """
        entity = member.entity
        here = Since(offset, time_ms)
        self._forget_interests(entity)
        self._members[entity] = member
        self._joined[entity] = offset if joined is None else joined
        for interest in member.interests:
            self._by_topic.setdefault(interest.topic, {})[entity] = member
        self.offset = offset
        self._interested.clear()
        self._edges.say(entity, {parent: since.get(parent, here) for parent in member.parents}, offset)

    def remove(self, entity: DynamoEntityID, offset: int) -> None:
        """The entity is gone."""
        self._forget_interests(entity)
        self._members.pop(entity, None)
        self._joined.pop(entity, None)
        self.offset = offset
        self._interested.clear()
        self._edges.say(entity, {}, offset)

    def get(self, entity: DynamoEntityID) -> Member | None:
        """What the entity says of itself, if it is there."""
        return self._members.get(entity)

    def joined(self, entity: DynamoEntityID) -> int:
        """Since when the entity has been there without a break; 0 if it is not."""
        return self._joined.get(entity, 0)

    def since(self, entity: DynamoEntityID) -> Mapping[DynamoEntityID, Since]:
        """Where each edge to its parents began, as it said them."""
        return self._edges.said(entity)

    @property
    def broken(self) -> dict[DynamoEntityID, str]:
        """Why an edge of that entity is not taken."""
        return {
            child: f"{self._name(parent)} belongs to {self._name(child)} already: they would contain each other"
            for child, parent in self._edges.broken.items()
        }

    def check(self, member: Member) -> None:
        """Raises ConfigurationError if one of its edges would close a circle as things are."""
        for parent in member.parents:
            if parent == member.entity or self.is_below(parent, member.entity):
                raise ConfigurationError(
                    f"{member.entity} cannot belong to {parent}, which belongs to it: nothing contains itself"
                )

    def below(self, entity: DynamoEntityID) -> Iterator[DynamoEntityID]:
        """All that belong to it, directly or not, each once, not itself."""
        return self._edges.below(entity)

    def above(self, entity: DynamoEntityID) -> Mapping[DynamoEntityID, Since]:
        """All that it belongs to, directly or not, not itself, and since when."""
        return self._edges.above(entity)

    def is_below(self, entity: DynamoEntityID, other: DynamoEntityID) -> bool:
        """Whether it belongs to the other, directly or not."""
        return other in self._edges.above(entity)

    def was_below(self, entity: DynamoEntityID, other: DynamoEntityID, offset: int) -> bool:
        """Whether it was the other, or belonged to it, at that offset; the last 65,536 edges that ended count."""
        return self._edges.was_below(entity, other, offset)

    def instances(self, entity: DynamoEntityID) -> list[Member]:
        """The instances that belong to a collection, by id; of an instance itself, if it is there."""
        if not entity.is_collection:
            return [self._members[entity]] if entity in self._members else []
        found = [self._members[e] for e in self.below(entity) if e in self._members and not e.is_collection]
        return sorted(found, key=lambda member: member.entity)

    def interested(self, entity: DynamoEntityID, topic: str) -> list[Member]:
        """The processes that an event for the entity goes to: those that subscribe to it or to anything below it."""
        asked = Interest(entity, topic)
        found = self._interested.get(asked)
        if found is None:
            reached = {entity, *self.below(entity)}
            found = [
                member
                for member in self._by_topic.get(topic, {}).values()
                if any(interest.topic == topic and interest.entity in reached for interest in member.interests)
            ]
            if len(self._interested) >= REMEMBERED_ANSWERS:
                self._interested.clear()
            self._interested[asked] = found
        return found

    def members(self) -> list[Member]:
        """Everybody, by id."""
        return sorted(self._members.values(), key=lambda member: member.entity)

    def tree(self, top: DynamoEntityID | None = None) -> str:
        """The hierarchy as text, a line an entity, indented by two spaces a level; of all, or from one entity down.

        What belongs to two is under both; what is below it, under the first.
        """
        broken, children = self.broken, self._edges.children
        known = {*self._members, *self._edges.collections()}
        tops = [e for e in known if not self._edges.parents(e)] if top is None else [e for e in known if e == top]
        waiting = [(0, e) for e in sorted(tops, key=_shown, reverse=True)]
        lines: list[str] = []
        drawn: set[DynamoEntityID] = set()
        while waiting:
            depth, entity = waiting.pop()
            member = self._members.get(entity)
            said = [f"{'  ' * depth}{self._name(entity)}", *(member.addresses if member else ())]
            if entity in broken:
                said.append(f"({broken[entity]})")
            if entity in drawn and children(entity):
                said.append("(see above)")
            else:
                waiting += [(depth + 1, child) for child in sorted(children(entity), key=_shown, reverse=True)]
            drawn.add(entity)
            lines.append("  ".join(said))
        return "\n".join(lines)

    def _name(self, entity: DynamoEntityID) -> DynamoEntityID:
        """The entity as it calls itself, or as one that belongs to it does."""
        if (member := self._members.get(entity)) is not None:
            return member.entity
        child = next(iter(self._edges.children(entity)), None)
        return entity if child is None else next(p for p in self._edges.parents(child) if p == entity)

    def _forget_interests(self, entity: DynamoEntityID) -> None:
        member = self._members.get(entity)
        for interest in member.interests if member is not None else ():
            on_topic = self._by_topic.get(interest.topic)
            if on_topic is not None:
                on_topic.pop(entity, None)
                if not on_topic:
                    del self._by_topic[interest.topic]


def _shown(entity: DynamoEntityID) -> tuple[bool, str]:
    """Collections before instances, by name."""
    return not entity.is_collection, str(entity)
