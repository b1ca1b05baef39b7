"""The state machine over a log's own topic: each entry is a request, and log order decides what comes of it.

An entry says what its writer wants and on what condition (a topic that does not exist yet, a generation, an epoch).
Every process folds the same entries to the same outcomes, so the writer learns its own by reading up to its entry:
compare-and-set without a transaction.  No clock and no I/O here; times come in the entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dynlog.errors import CommitFenced, DynlogError, LogDiverged, TopicExists, TopicNotFound, UnsupportedLogVersion
from dynlog.storage.kafka.state import Group, Held, State, TopicState, unpack_holder, unpack_topic
from dynlog.storage.ledger import (
    GROUP_PREFIX,
    HOLDER_EXPELLED,
    TRUNCATION_FORCED,
    check_newest,
    group_holder,
    next_epoch,
    truncated,
    truncation_limit,
)
from dynlog.topics import GroupState, LogEvent, Topic, Truncation


def apply(state: State, kind: str, fields: list[Any], offset: int) -> Any:
    """Changes the state as the entry says and returns its outcome: a value, or an error that its writer raises.

    Raises UnsupportedLogVersion for what a newer dynlog wrote: passing over it would fold another state than others.
    """
    step = _STEPS.get(kind)
    if step is None:
        raise UnsupportedLogVersion(f"an entry {kind!r} at offset {offset} is of a newer dynlog: upgrade this one")
    try:
        return step(state, offset, *fields)
    except DynlogError as error:
        return error


def find(state: State, name: str, incarnation: str) -> TopicState:
    """The topic, if it is still the one that the entry's writer knew."""
    topic = state.topics.get(name)
    if topic is None:
        raise TopicNotFound("no such topic; create it first", topic=name)
    if topic.info.incarnation != incarnation:
        raise LogDiverged("the topic was deleted and created anew meanwhile", topic=name)
    return topic


def _intend(state: State, _: int, name: str) -> None:
    if name in state.topics:
        raise TopicExists("the topic exists already", topic=name)
    state.intended.add(name)


def _create(state: State, _: int, packed: list[Any]) -> Topic:
    """The first one who announces an incarnation has created it."""
    info = unpack_topic(packed)
    found = state.topics.get(info.name)
    if found is not None and found.info.incarnation == info.incarnation:
        raise TopicExists("the topic exists already", topic=info.name)
    state.intended.discard(info.name)
    state.topics[info.name] = TopicState(info)
    return info


def _adopt(state: State, _: int, packed: list[Any]) -> Topic:
    """A topic that others made in Kafka: known from here on, since somebody holds it or labels it."""
    info = unpack_topic(packed)
    found = state.topics.get(info.name)
    if found is None or found.info.incarnation != info.incarnation:
        found = state.topics[info.name] = TopicState(info)
    return found.info


def _delete(state: State, _: int, name: str, incarnation: str) -> None:
    find(state, name, incarnation)
    del state.topics[name]
    state.doomed[name] = incarnation


def _buried(state: State, _: int, name: str, incarnation: str) -> None:
    if state.doomed.get(name) == incarnation:
        del state.doomed[name]


def _label(state: State, _: int, name: str, incarnation: str, label: str, value: str) -> str:
    topic = find(state, name, incarnation)
    labels = {label: value, **topic.info.labels}
    topic.info = replace(topic.info, labels=MappingProxyType(labels))
    return labels[label]


def _epoch(state: State, _: int, producer: str, after: int | None) -> int:
    epoch = next_epoch(state.epochs.get(producer), ())
    check_newest(producer, epoch, after)
    state.epochs[producer] = epoch
    return epoch


def _hold(state: State, offset: int, name: str, incarnation: str, packed: list[Any], now_ms: int) -> None:
    topic, holder = find(state, name, incarnation), unpack_holder(packed)
    for partition, position in holder.positions.items():
        start = topic.starts.get(partition, 0)
        if position < start:
            raise truncated(name, partition, position, start)
    topic.holders[holder.name] = Held(holder, now_ms, offset)


def _release(state: State, _: int, name: str, holder: str) -> None:
    topic = state.topics.get(name)
    if topic is not None:
        topic.holders.pop(holder, None)


def _trim(
    state: State,
    _: int,
    name: str,
    incarnation: str,
    wanted: dict[int, list[int]],
    expelled: list[list[Any]],
    force: bool,
    now_ms: int,
) -> list[Truncation]:
    """Drops holders that expired (unless they moved since), then moves the starts as far as the others allow.

    ``wanted`` is per partition the start now and the one asked for.
    """
    topic = find(state, name, incarnation)
    for holder, version, why in expelled:
        held = topic.holders.get(holder)
        if held is not None and held.version == version:
            del topic.holders[holder]
            topic.events.append(LogEvent(now_ms, HOLDER_EXPELLED, name, f"{holder}: {why}"))
    done: list[Truncation] = []
    for partition, (now, before) in sorted(wanted.items()):
        earliest = max(now, topic.starts.get(partition, 0))
        limit = truncation_limit(before, partition, (held.holder for held in topic.holders.values()))
        if force and before > earliest:
            passed = f", passing {', '.join(limit.blocked_by)}" if limit.blocked_by else ""
            detail = f"partition {partition} from {earliest} to {before}{passed}"
            topic.events.append(LogEvent(now_ms, TRUNCATION_FORCED, name, detail))
        start = max(earliest, before if force else limit.before)
        topic.starts[partition] = start
        done.append(Truncation(partition, start, before, () if force else limit.blocked_by))
    return done


def _generation(
    state: State, offset: int, name: str, incarnation: str, group: str, positions: dict[int, int] | None, now_ms: int
) -> int:
    topic = find(state, name, incarnation)
    found = topic.groups.setdefault(group, Group())
    found.generation += 1
    if positions is not None:
        found.positions = positions
    _hold_for(topic, group, found, offset, now_ms)
    return found.generation


def _commit(
    state: State,
    offset: int,
    name: str,
    incarnation: str,
    group: str,
    generation: int,
    positions: dict[int, int],
    now_ms: int,
) -> GroupState:
    topic = find(state, name, incarnation)
    found = topic.groups.get(group, Group())
    if generation != found.generation or not found.generation:
        raise CommitFenced(
            f"group {group!r} commits in generation {generation} but the newest is {found.generation}: another "
            "member took over; stop, or open a generation",
            topic=name,
        )
    for partition, position in positions.items():
        found.positions[partition] = max(position, found.positions.get(partition, 0))
    _hold_for(topic, group, found, offset, now_ms)
    return group_state(topic, group)


def _hold_for(topic: TopicState, group: str, found: Group, offset: int, now_ms: int) -> None:
    holder = group_holder(group, MappingProxyType(dict(found.positions)))
    topic.holders[GROUP_PREFIX + group] = Held(holder, now_ms, offset)


def group_state(topic: TopicState, group: str) -> GroupState:
    """What the group committed."""
    found = topic.groups.get(group, Group())
    return GroupState(group, found.generation, MappingProxyType(dict(found.positions)))


_STEPS: dict[str, Callable[..., Any]] = {
    "intend": _intend,
    "create": _create,
    "adopt": _adopt,
    "delete": _delete,
    "buried": _buried,
    "label": _label,
    "epoch": _epoch,
    "hold": _hold,
    "release": _release,
    "trim": _trim,
    "generation": _generation,
    "commit": _commit,
}
