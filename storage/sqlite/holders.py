"""Holders: who needs the log from where, in documents of their own, counted so that none is forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

from dynlog.storage.ledger import (
    HOLDER_EXPELLED,
    KEPT_EVENTS,
    beyond_end,
    check_partition,
    truncated,
    why_expired,
)
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.readers import View
from dynlog.storage.sqlite.reads import behind_holes, holes_of, part_of, row_at
from dynlog.storage.sqlite.rows import Census, Part, TopicRow
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.topics import Holder, HolderKind, HolderState, LogEvent

Parts = Callable[[int], Part]


def hold(tx: Transaction, name: str, holder: Holder, now_ms: int, incarnation: str | None = None) -> None:
    """Registers, moves, or keeps alive; raises OffsetTruncated, LogDiverged, PartitionNotFound, holding nothing."""
    topic = tx.topic(name, incarnation)
    for partition, offset in holder.positions.items():
        part = tx.part(topic, check_partition(name, topic.topic.partitions, partition))
        if offset < part.earliest:
            raise truncated(name, partition, offset, part.earliest)
        if offset > part.end:
            raise beyond_end(name, partition, offset, part.end)
    store(tx, topic, holder, now_ms)


def store(tx: Transaction, topic: TopicRow, holder: Holder, now_ms: int) -> None:
    """Stores a holder as heard of now."""
    key = rows.holder_key(topic.id, holder.name)
    if rows.find(tx.db, key) is None:
        census = tx.census(topic)
        tx.set_census(topic, census._replace(holders=census.holders + 1))
    tx.put(key, [holder.kind.value, dict(holder.positions), holder.expires_after_s, holder.max_lag_bytes, now_ms])


def release(tx: Transaction, name: str, holder: str) -> None:
    """Forgets a holder, if there is one."""
    topic = tx.topic(name)
    if rows.find(tx.db, rows.holder_key(topic.id, holder)) is not None:
        _forget(tx, topic, holder)


def _forget(tx: Transaction, topic: TopicRow, holder: str) -> None:
    tx.delete(rows.holder_key(topic.id, holder))
    census = tx.census(topic)
    tx.set_census(topic, census._replace(holders=census.holders - 1))


def expel(tx: Transaction, topic: TopicRow, now_ms: int) -> None:
    """Drops the holders that have expired; each leaves an event.

    One heard of in the future, since the clock was put back, counts as heard of now: else it would block for as long.
    """
    found = stored(tx.db, topic, tx.census(topic))
    everything = most_bytes(tx, topic) if found else 0
    for holder, last_seen_ms in found:
        lag = everything
        if why_expired(holder, now_ms, now_ms, lag) is not None:  # else no lag could be too much, and none is measured
            lag = sum(
                lag_bytes(tx.db, topic, partition, tx.part(topic, partition), offset)
                for partition, offset in holder.positions.items()
            )
        why = why_expired(holder, last_seen_ms, now_ms, lag)
        if why is not None:
            _forget(tx, topic, holder.name)
            tx.event(topic, now_ms, HOLDER_EXPELLED, f"{holder.name}: {why}", kept=KEPT_EVENTS)
        elif last_seen_ms > now_ms:
            store(tx, topic, holder, now_ms)


def most_bytes(tx: Transaction, topic: TopicRow) -> int:
    """No fewer bytes than the topic's records take: rows below the starts that are not deleted yet count as well."""
    parts = [tx.part(topic, partition) for partition in range(topic.topic.partitions)]
    return sum(part.written if part.holes else part.bytes for part in parts)


def stored(db: sqlite3.Connection, topic: TopicRow, census: Census) -> list[tuple[Holder, int]]:
    """All holders of a topic with their last heartbeats; raises LogCorrupt if one is missing."""
    found = rows.whole_family(db, rows.holder_key(topic.id), census.holders)
    return [(_holder(name, values), values[4]) for name, values in found]


def _holder(name: str, values: list[Any]) -> Holder:
    kind, positions, expires_after_s, max_lag_bytes, _ = values
    return Holder(name, HolderKind(kind), positions, expires_after_s, max_lag_bytes)


def states(db: sqlite3.Connection, topic: TopicRow, census: Census, parts: Parts, now_ms: int) -> list[HolderState]:
    """All holders as they are now, by name."""
    result = []
    part_at, lag_at = cache(parts), cache(lambda p, offset: lag_bytes(db, topic, p, part_at(p), offset))
    for holder, last_seen_ms in stored(db, topic, census):
        lag = behind = 0
        for partition, offset in holder.positions.items():
            part = part_at(partition)
            lag += lag_at(partition, offset)
            behind += part.end - max(offset, part.earliest)
        expired = why_expired(holder, last_seen_ms, now_ms, lag) is not None
        result.append(HolderState(holder, last_seen_ms, behind, expired))
    return result


def lag_bytes(db: sqlite3.Connection, topic: TopicRow, partition: int, part: Part, offset: int) -> int:
    """How many stored bytes lie at or behind an offset; a row counts whole."""
    if offset >= part.end:
        return 0
    start = behind_holes(holes_of(db, topic, partition, part), max(offset, part.earliest))
    row = row_at(db, topic, partition, part, start) if start < part.end else None
    return 0 if row is None else part.written - row.before


def list_holders(view: View, name: str, now_ms: int) -> list[HolderState]:
    """`states` in a read transaction."""
    topic = view.topic(name)
    census = Census(*rows.get(view.db, rows.census_key(topic.id)))
    return states(view.db, topic, census, lambda partition: part_of(view, topic, partition), now_ms)


def list_events(view: View, name: str) -> list[LogEvent]:
    """The events that are kept, oldest first."""
    topic = view.topic(name)
    census = Census(*rows.get(view.db, rows.census_key(topic.id)))
    found = rows.whole_family(view.db, rows.event_key(topic.id), census.next_event - census.first_event)
    return [LogEvent(time_ms, kind, name, detail) for _, (time_ms, kind, detail) in found]
