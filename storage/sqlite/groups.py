"""Consumer groups: a commit counts only in the newest generation, and within one no offset goes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from dynlog.errors import CommitFenced, ConfigurationError
from dynlog.storage.ledger import beyond_end, check_partition, group_holder
from dynlog.storage.sqlite import holders, rows
from dynlog.storage.sqlite.readers import View
from dynlog.storage.sqlite.rows import Census, TopicRow
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.topics import GroupState


def open_generation(tx: Transaction, group: str, name: str, positions: Mapping[int, int] | None, now_ms: int) -> int:
    """The group's next generation, with the given positions instead of the committed ones."""
    topic = tx.topic(name)
    state = _group(tx.db, topic, group)
    if positions is not None:
        _check_positions(tx, topic, positions)
    generation = state.generation + 1
    _store_group(tx, topic, GroupState(group, generation, state.positions if positions is None else positions), now_ms)
    return generation


def commit(
    tx: Transaction, group: str, name: str, positions: Mapping[int, int], generation: int, now_ms: int
) -> GroupState:
    """The group's positions, none of which went back."""
    topic = tx.topic(name)
    state = _group(tx.db, topic, group)
    if generation != state.generation or not generation:
        raise CommitFenced(
            f"group {group!r} is in generation {state.generation}, this commit is of {generation}: another member "
            "took over; stop this one, or open a new generation",
            topic=name,
        )
    _check_positions(tx, topic, positions)
    merged = dict(state.positions)
    for partition, offset in positions.items():
        merged[partition] = max(offset, merged.get(partition, 0))
    state = GroupState(group, generation, merged)
    _store_group(tx, topic, state, now_ms)
    return state


def committed(view: View, group: str, name: str) -> GroupState:
    """What the group committed."""
    return _group(view.db, view.topic(name), group)


def _group(db: sqlite3.Connection, topic: TopicRow, group: str) -> GroupState:
    values = rows.find(db, rows.group_key(topic.id, group))
    if values is None:
        # A group whose row vanished would start over, so the family is counted.
        rows.whole_family(db, rows.group_key(topic.id), Census(*rows.get(db, rows.census_key(topic.id))).groups)
        return GroupState(group, 0, {})
    return GroupState(group, values[0], values[1])


def _store_group(tx: Transaction, topic: TopicRow, state: GroupState, now_ms: int) -> None:
    if state.generation == 1 and rows.find(tx.db, rows.group_key(topic.id, state.group)) is None:
        census = tx.census(topic)
        tx.set_census(topic, census._replace(groups=census.groups + 1))
    tx.put(rows.group_key(topic.id, state.group), [state.generation, dict(state.positions)])
    holders.store(tx, topic, group_holder(state.group, state.positions), now_ms)


def _check_positions(tx: Transaction, topic: TopicRow, positions: Mapping[int, int]) -> None:
    name = topic.topic.name
    for partition, offset in positions.items():
        part = tx.part(topic, check_partition(name, topic.topic.partitions, partition))
        if offset > part.end:
            raise beyond_end(name, partition, offset, part.end)
        if offset < 0:
            raise ConfigurationError(f"offset {offset} of partition {partition}: offsets begin at 0")
