"""What Kafka does not know of a log, as data: topics with labels and retention, holders, groups, epochs, events.

It is a fold over the log's own topic (`dynlog.storage.kafka.fold`), the same in every process, and can be packed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dynlog.storage.ledger import KEPT_EVENTS
from dynlog.topics import Holder, HolderKind, LogEvent, Retention, Topic


@dataclass(slots=True)
class Held:
    """A holder; ``version`` is the offset of the entry that moved it last."""

    holder: Holder
    last_seen_ms: int
    version: int


@dataclass(slots=True)
class Group:
    """What a consumer group committed."""

    generation: int = 0
    positions: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class TopicState:
    """A topic and who needs it; ``starts`` are where truncation put the starts of partitions."""

    info: Topic
    starts: dict[int, int] = field(default_factory=dict)
    holders: dict[str, Held] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    events: deque[LogEvent] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))


@dataclass(slots=True)
class State:
    """Everything.  ``intended`` topics are being created, ``doomed`` (name to Kafka's topic id) being deleted."""

    topics: dict[str, TopicState] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    intended: set[str] = field(default_factory=set)
    doomed: dict[str, str] = field(default_factory=dict)


def pack_holder(holder: Holder) -> list[Any]:
    """A holder as msgpack takes it."""
    return [holder.name, holder.kind.value, dict(holder.positions), holder.expires_after_s, holder.max_lag_bytes]


def unpack_holder(packed: list[Any]) -> Holder:
    """The inverse of `pack_holder`."""
    name, kind, positions, expires_after_s, max_lag_bytes = packed
    return Holder(name, HolderKind(kind), MappingProxyType(positions), expires_after_s, max_lag_bytes)


def pack_topic(info: Topic) -> list[Any]:
    """A topic as msgpack takes it."""
    kept = info.retention
    return [
        info.name, info.incarnation, info.partitions, kept.max_age_s, kept.max_bytes, info.created_ms, dict(info.labels)
    ]  # fmt: skip


def unpack_topic(packed: list[Any]) -> Topic:
    """The inverse of `pack_topic`."""
    name, incarnation, partitions, max_age_s, max_bytes, created_ms, labels = packed
    return Topic(name, incarnation, partitions, Retention(max_age_s, max_bytes), created_ms, MappingProxyType(labels))


def pack_state(state: State) -> list[Any]:
    """The whole state, for a snapshot."""
    topics = [
        [
            pack_topic(topic.info),
            topic.starts,
            [[pack_holder(held.holder), held.last_seen_ms, held.version] for held in topic.holders.values()],
            {name: [group.generation, group.positions] for name, group in topic.groups.items()},
            [[event.time_ms, event.kind, event.detail] for event in topic.events],
        ]
        for topic in state.topics.values()
    ]
    return [topics, state.epochs, sorted(state.intended), state.doomed]


def unpack_state(packed: list[Any]) -> State:
    """The inverse of `pack_state`."""
    topics, epochs, intended, doomed = packed
    state = State(epochs=epochs, intended=set(intended), doomed=doomed)
    for info, starts, holders, groups, events in topics:
        topic = state.topics[info[0]] = TopicState(unpack_topic(info), starts)
        for holder, last_seen_ms, version in holders:
            topic.holders[holder[0]] = Held(unpack_holder(holder), last_seen_ms, version)
        topic.groups = {name: Group(*group) for name, group in groups.items()}
        topic.events.extend(LogEvent(time_ms, kind, info[0], detail) for time_ms, kind, detail in events)
    return state
