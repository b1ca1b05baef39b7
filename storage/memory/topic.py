"""A topic in memory: its partitions, who holds it, what groups committed, and how it is truncated."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from dynlog.errors import CommitFenced, ConfigurationError
from dynlog.storage.ledger import (
    HOLDER_EXPELLED,
    KEPT_EVENTS,
    TRUNCATION_FORCED,
    beyond_end,
    check_holder,
    check_partition,
    group_holder,
    retention_cuts,
    truncated,
    truncation_limit,
    why_expired,
)
from dynlog.storage.memory.partition import Partition, Stored
from dynlog.topics import Damage, GroupState, Holder, HolderState, LogEvent, Topic, Truncation

RETENTION_EVERY_MS = 5_000
"""How often, in the engine's time, appending enforces retention by itself."""


@dataclass(slots=True)
class Holding:
    """A holder and when it was last heard of."""

    holder: Holder
    last_seen_ms: int


@dataclass(slots=True)
class Group:
    """What a consumer group committed."""

    generation: int = 0
    positions: dict[int, int] = field(default_factory=dict)


class TopicData:
    """Everything of one topic; every method is called under the log's lock and does not block."""

    def __init__(self, info: Topic) -> None:
        self.info = info
        self.partitions = [Partition(number) for number in range(info.partitions)]
        self.events: deque[LogEvent] = deque(maxlen=KEPT_EVENTS)
        self._holdings: dict[str, Holding] = {}
        self._groups: dict[str, Group] = {}
        self._enforced_ms = info.created_ms

    @property
    def bytes(self) -> int:
        """What all partitions take."""
        return sum(partition.size for partition in self.partitions)

    def partition(self, number: int) -> Partition:
        """A partition; raises PartitionNotFound."""
        return self.partitions[check_partition(self.info.name, self.info.partitions, number)]

    def label(self, name: str, value: str) -> str:
        """Sets the label unless it is set."""
        labels = {name: value, **self.info.labels}
        self.info = replace(self.info, labels=MappingProxyType(labels))
        return labels[name]

    # Holders

    def hold(self, holder: Holder, now_ms: int) -> None:
        """Registers or moves a holder."""
        check_holder(holder)
        for number, offset in holder.positions.items():
            partition = self.partition(number)
            if offset < partition.earliest:
                raise truncated(self.info.name, number, offset, partition.earliest)
            if offset > partition.end:
                raise beyond_end(self.info.name, number, offset, partition.end)
        kept = replace(holder, positions=MappingProxyType(dict(holder.positions)))
        self._holdings[holder.name] = Holding(kept, now_ms)

    def release(self, name: str) -> None:
        """Forgets a holder."""
        self._holdings.pop(name, None)

    def holders(self, now_ms: int) -> list[HolderState]:
        """All holders by name."""
        return [
            HolderState(
                holding.holder,
                holding.last_seen_ms,
                sum(max(self.partitions[p].end - offset, 0) for p, offset in holding.holder.positions.items()),
                self._why_expired(holding, now_ms) is not None,
            )
            for _, holding in sorted(self._holdings.items())
        ]

    def _why_expired(self, holding: Holding, now_ms: int) -> str | None:
        lag = sum(self.partitions[p].bytes_from(offset) for p, offset in holding.holder.positions.items())
        return why_expired(holding.holder, holding.last_seen_ms, now_ms, lag)

    # Truncation

    def truncate(self, number: int, before: int, now_ms: int, *, force: bool) -> Truncation:
        """Truncates as far as the holders allow that have not expired, or all the way."""
        partition = self.partition(number)
        if before > partition.end:
            raise beyond_end(self.info.name, number, before, partition.end)
        if before <= partition.earliest:
            return Truncation(number, partition.earliest, before)
        self._expel(now_ms)
        limit = truncation_limit(before, number, (holding.holder for holding in self._holdings.values()))
        if force:
            passed = f", passing {', '.join(limit.blocked_by)}" if limit.blocked_by else ""
            detail = f"partition {number} from {partition.earliest} to {before}{passed}"
            self._note(now_ms, TRUNCATION_FORCED, detail)
        partition.truncate(before if force else limit.before)
        return Truncation(number, partition.earliest, before, () if force else limit.blocked_by)

    def _expel(self, now_ms: int) -> None:
        """Drops the holders that have expired; each leaves an event.

        One heard of in the future, since the clock was put back, counts as heard of now.
        """
        for name, holding in list(self._holdings.items()):
            holding.last_seen_ms = min(holding.last_seen_ms, now_ms)
            why = self._why_expired(holding, now_ms)
            if why is not None:
                del self._holdings[name]
                self._note(now_ms, HOLDER_EXPELLED, f"{name}: {why}")

    def _note(self, now_ms: int, kind: str, detail: str) -> None:
        self.events.append(LogEvent(now_ms, kind, self.info.name, detail))

    def enforce_retention(self, now_ms: int) -> list[Truncation]:
        """Drops expired holders, then what retention no longer keeps and nobody holds."""
        self._enforced_ms = now_ms
        self._expel(now_ms)
        for partition in self.partitions:
            partition.forget_expired_marks()
        cuts = retention_cuts(
            {partition.number: partition.segments() for partition in self.partitions},
            self.info.retention,
            total_bytes=self.bytes,
            now_ms=now_ms,
        )
        return [self.truncate(number, before, now_ms, force=False) for number, before in sorted(cuts.items())]

    def retention_is_due(self, now_ms: int) -> bool:
        """Whether appending should enforce retention now."""
        return abs(now_ms - self._enforced_ms) >= RETENTION_EVERY_MS

    # Care

    def damages(self) -> Iterator[Damage]:
        """Breaks in the chain of stored appends; memory knows no other damage."""
        for partition in self.partitions:
            before: Stored | None = None
            for item in partition.stored:
                if before is not None and before.segment.next != item.segment.base:
                    yield Damage(
                        self.info.name, partition.number, before.segment.next, item.segment.base, "the chain breaks"
                    )
                before = item

    # Consumer groups

    def open_generation(self, group: str, positions: Mapping[int, int] | None, now_ms: int) -> int:
        """Fences the older generations; given positions replace the committed ones."""
        self._check_positions(positions or {})
        state = self._groups.setdefault(group, Group())
        state.generation += 1
        if positions is not None:
            state.positions = dict(positions)
        self._hold_for(group, state, now_ms)
        return state.generation

    def commit(self, group: str, positions: Mapping[int, int], generation: int, now_ms: int) -> GroupState:
        """Moves the committed positions forward."""
        state = self._groups.get(group, Group())
        if generation != state.generation or not state.generation:
            raise CommitFenced(
                f"group {group!r} commits in generation {generation} but the newest is {state.generation}: another "
                "member took over; stop, or open a generation",
                topic=self.info.name,
            )
        self._check_positions(positions)
        for number, offset in positions.items():
            state.positions[number] = max(offset, state.positions.get(number, 0))
        self._hold_for(group, state, now_ms)
        return self.committed(group)

    def committed(self, group: str) -> GroupState:
        """What the group committed."""
        state = self._groups.get(group, Group())
        return GroupState(group, state.generation, MappingProxyType(dict(state.positions)))

    def _check_positions(self, positions: Mapping[int, int]) -> None:
        for number, offset in positions.items():
            end = self.partition(number).end
            if offset < 0:
                raise ConfigurationError(f"a committed offset is 0 or more, not {offset} (partition {number})")
            if offset > end:
                raise beyond_end(self.info.name, number, offset, end)

    def _hold_for(self, group: str, state: Group, now_ms: int) -> None:
        holder = group_holder(group, MappingProxyType(dict(state.positions)))
        self._holdings[holder.name] = Holding(holder, now_ms)


def by_name(topics: Iterable[TopicData]) -> list[Topic]:
    """What the topics are, in the order of their names."""
    return sorted((topic.info for topic in topics), key=lambda info: info.name)
