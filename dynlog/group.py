"""A consumer group's state is a fold over the group's own topic: every member computes it and comes to the same.

* **A partition has one owner at a time.**  It moves when its owner released it, left or was expired, never before.
* **Whoever was expired is fenced before anybody takes over**: `GroupFold.unfenced` says that a generation is still to
  be opened; partitions that somebody keeps go on meanwhile.
* An expiry names the last sign of life that its author saw, and is void if the log has a newer one ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgpack

from dynlog.assignment import assign
from dynlog.batch import Batch, StoredRecord
from dynlog.errors import MalformedRecord, SnapshotCorrupt
from dynlog.group_records import Beat, Expire, Generation, Join, Leave, Release, from_record


@dataclass(frozen=True, slots=True)
class Member:
    """A member: where it joined and where it was last heard of, as offsets of the group's topic."""

    id: str
    about: str
    joined: int
    beat: int


class GroupFold:
    """The fold; a `Projection`.  ``version`` counts changes other than heartbeats."""

    schema = "group/1"

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.members: dict[str, Member] = {}
        self.owners: dict[int, str] = {}
        self.targets: dict[int, str] = {}
        self.partitions = 0
        self.generation = 0
        self.covers = 0
        self.expired_at = -1
        self.seeks = 0
        self.malformed = 0
        self.version = 0

    @property
    def leader(self) -> str | None:
        """The member that has been there longest: it opens generations."""
        return next(iter(self.members), None)

    @property
    def unfenced(self) -> bool:
        """Whether somebody was expired whom no generation fences yet, or there never was a generation."""
        return self.generation == 0 or self.expired_at >= self.covers

    def owned_by(self, member: str) -> frozenset[int]:
        """The partitions that only this member may commit."""
        return frozenset(p for p, owner in self.owners.items() if owner == member)

    def apply(self, batch: Batch) -> None:
        """Folds the records in."""
        for stored in batch:
            self.apply_one(stored)

    def apply_one(self, stored: StoredRecord) -> None:
        """Folds one record in."""
        try:
            fact = from_record(stored.record)
        except MalformedRecord:
            self.malformed += 1
            return
        match fact:
            case Beat(id) if id in self.members:
                known = self.members[id]
                self.members[id] = Member(id, known.about, known.joined, stored.offset)
                return
            case Join(id, partitions, about) if id not in self.members:
                self.partitions = self.partitions or partitions
                self.members[id] = Member(id, about, stored.offset, stored.offset)
                self._balance()
            case Leave(id) if id in self.members:
                self._remove(id)
            case Expire(id, beat) if id in self.members and self.members[id].beat <= beat:
                self.expired_at = stored.offset
                self._remove(id)
            case Release(id, partition) if self.owners.get(partition) == id:
                self.owners[partition] = self.targets[partition]
            case Generation(number, covers, seek) if number > self.generation:
                self.generation = number
                self.covers = max(self.covers, covers)
                self.seeks += seek
            case _:  # a picture, or somebody who is not (or no longer) in
                return
        self.version += 1

    def _remove(self, member: str) -> None:
        del self.members[member]
        self.owners = {p: owner for p, owner in self.owners.items() if owner != member}
        self._balance()

    def _balance(self) -> None:
        self.targets = assign(list(self.members), self.owners, self.partitions)
        self.owners = {p: self.owners.get(p, target) for p, target in self.targets.items()}

    def snapshot(self) -> Iterator[bytes]:
        """The state at the moment of the call."""
        members = [[m.id, m.about, m.joined, m.beat] for m in self.members.values()]
        numbers = [self.partitions, self.generation, self.covers, self.expired_at]
        counts = [self.seeks, self.malformed, self.version]
        packed: bytes = msgpack.packb([self.schema, members, self.owners, self.targets, numbers, counts])
        return iter((packed,))

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replaces the state; raises SnapshotCorrupt and leaves it empty otherwise."""
        self._clear()
        try:
            schema, members, owners, targets, numbers, counts = msgpack.unpackb(
                b"".join(parts), strict_map_key=False
            )  # fmt: skip
            if schema != self.schema:
                raise SnapshotCorrupt(f"a group of schema {schema!r}, this dynlog reads {self.schema!r}")
            found = {row[0]: Member(*row) for row in members}
            partitions, generation, covers, expired_at = map(int, numbers)
            seeks, malformed, version = map(int, counts)
        except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
            raise SnapshotCorrupt(f"not a consumer group: {error!r}") from None
        self.members, self.owners, self.targets = found, dict(owners), dict(targets)
        self.partitions, self.generation, self.covers, self.expired_at = partitions, generation, covers, expired_at
        self.seeks, self.malformed, self.version = seeks, malformed, version
