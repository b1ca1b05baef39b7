"""What a log should do, in plain lists and dicts: the oracle of the state machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynlog.marks import EXPIRY_MS, UNKNOWN_OFFSET
from dynlog.record import Mark
from dynlog.topics import EPHEMERAL_EXPIRY_S, NAMED_EXPIRY_S, HolderKind


class Fenced(Exception):
    """The append must be refused with ProducerFenced."""


@dataclass
class Seen:
    """What a partition knows of a producer; ``offsets`` of the present epoch."""

    epoch: int
    last: int = -1
    seen_ms: int = 0
    offsets: dict[int, int] = field(default_factory=dict)


@dataclass
class Partition:
    """``history`` holds also what was truncated, so that its index is the offset."""

    history: list[str] = field(default_factory=list)
    start: int = 0
    log_time_ms: int = 0
    seen: dict[str, Seen] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return len(self.history)


@dataclass
class Held:
    """A holder, or a group as one."""

    kind: HolderKind
    positions: dict[int, int]
    seen_ms: int


@dataclass
class Group:
    generation: int = 0
    positions: dict[int, int] = field(default_factory=dict)


class Oracle:
    """One topic; `register` outlives its deletion."""

    def __init__(self, partitions: int) -> None:
        self.registered: dict[str, int] = {}
        self.fences_at_registration = True
        self.recreate(partitions)

    def recreate(self, partitions: int) -> None:
        self.partitions = [Partition() for _ in range(partitions)]
        self.held: dict[str, Held] = {}
        self.groups: dict[str, Group] = {}

    def append(self, number: int, bodies: list[str], marks: list[Mark | None], now_ms: int) -> tuple[list[int], int]:
        """(offset of each record, repeats); raises Fenced and changes nothing."""
        partition = self.partitions[number]
        time_ms = max(partition.log_time_ms, now_ms)
        touched: dict[str, Seen] = {}
        offsets: list[int] = []
        stored: list[str] = []
        for body, mark in zip(bodies, marks, strict=True):
            offset = partition.end + len(stored)
            if mark is None:
                stored.append(body)
                offsets.append(offset)
                continue
            seen = touched.get(mark.producer_id) or self._known(partition, mark, time_ms)
            touched[mark.producer_id] = seen
            registered = self.registered.get(mark.producer_id, 0) if self.fences_at_registration else 0
            if mark.epoch < max(seen.epoch, registered):
                raise Fenced
            if mark.epoch > seen.epoch:
                seen.epoch, seen.last, seen.offsets = mark.epoch, -1, {}
            if mark.sequence <= seen.last:
                offsets.append(seen.offsets.get(mark.sequence, UNKNOWN_OFFSET))
                continue
            seen.last, seen.seen_ms, seen.offsets[mark.sequence] = mark.sequence, time_ms, offset
            stored.append(body)
            offsets.append(offset)
        if stored:
            partition.seen |= {name: seen for name, seen in touched.items() if seen.offsets}
            partition.log_time_ms = time_ms
            partition.history += stored
        return offsets, len(bodies) - len(stored)

    @staticmethod
    def _known(partition: Partition, mark: Mark, time_ms: int) -> Seen:
        seen = partition.seen.get(mark.producer_id)
        if seen is None or time_ms - seen.seen_ms > EXPIRY_MS:
            return Seen(mark.epoch)
        return Seen(seen.epoch, seen.last, seen.seen_ms, dict(seen.offsets))

    def truncate(self, number: int, before: int, force: bool) -> tuple[int, list[str]]:
        """(earliest after it, names of who blocks the rest)."""
        partition = self.partitions[number]
        slower = {
            name: held.positions[number]
            for name, held in self.held.items()
            if held.positions.get(number, before) < before and before > partition.start
        }
        if force:
            slower = {}
        partition.start = max(partition.start, min([before, *slower.values()]))
        return partition.start, sorted(slower)

    def expire(self, now_ms: int) -> None:
        """Forgets the holders that have been silent for too long."""
        lives_s = {HolderKind.EPHEMERAL: EPHEMERAL_EXPIRY_S, HolderKind.NAMED: NAMED_EXPIRY_S}
        for name, held in list(self.held.items()):
            if held.kind in lives_s and now_ms - held.seen_ms > lives_s[held.kind] * 1000:
                del self.held[name]
