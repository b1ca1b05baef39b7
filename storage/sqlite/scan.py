"""Care for a damaged log begins with a walk over everything that is there: rows that verify, and what lies between.

The walk never gives up at the first damage; it goes on at the next row that can be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from dynlog.errors import LogCorrupt, UnsupportedLogVersion
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.reads import behind_holes, checked_row, decoded, holes_of
from dynlog.storage.sqlite.rows import BatchRow, Part, TopicRow
from dynlog.topics import Damage

_ROW = "SELECT base, next, log_time_ms, before, frame FROM batches WHERE topic = ? AND partition = ? AND base = ?"
_AT_OR_BELOW = "SELECT max(base) FROM batches WHERE topic = ? AND partition = ? AND base <= ?"
_ABOVE = "SELECT min(base) FROM batches WHERE topic = ? AND partition = ? AND base > ?"
_FIND = {"at or below": _AT_OR_BELOW, "above": _ABOVE}


def scan(
    db: sqlite3.Connection, topic: TopicRow, partition: int, part: Part, start: int
) -> Iterator[BatchRow | Damage]:
    """From ``start`` on: every row that verifies and every stretch of offsets that no row and no hole accounts for."""
    name = topic.topic.name
    holes = holes_of(db, topic, partition, part)
    expected = start
    while expected < part.end:
        expected = behind_holes(holes, expected)
        if expected >= part.end:
            break
        found = _good_row(db, topic, partition, expected)
        if isinstance(found, BatchRow) and found.base <= expected < found.next <= part.end:
            yield found
            expected = found.next
            continue
        stop = _next_start(db, topic, partition, expected, min([part.end, *(s for s in holes if s > expected)]))
        reason = found if isinstance(found, str) else f"no row holds the offsets from {expected} to {stop}"
        yield Damage(name, partition, expected, stop, reason)
        expected = stop
    beyond = _locate(db, topic, partition, part.end - 1, "above")
    if isinstance(beyond, int):
        yield Damage(name, partition, part.end, -1, f"a row lies at {beyond}, beyond the partition's end")


def _good_row(db: sqlite3.Connection, topic: TopicRow, partition: int, offset: int) -> BatchRow | str | None:
    """The row that holds the offset, or what is wrong with it, or None if there is no row."""
    base = _locate(db, topic, partition, offset, "at or below")
    if not isinstance(base, int):
        return base
    try:
        values: tuple[Any, ...] | None = db.execute(_ROW, (topic.id, partition, base)).fetchone()
        if values is None:
            return f"the index names a row at {base} that is not there"
        row = checked_row(topic, partition, values, offset)
        decoded(topic, partition, row)
    except (sqlite3.DatabaseError, LogCorrupt, UnsupportedLogVersion) as error:
        return rows.reason_of(error)
    return row


def _locate(db: sqlite3.Connection, topic: TopicRow, partition: int, offset: int, where: str) -> int | str | None:
    """The nearest base by the index alone, None if there is none, or what is wrong with the index."""
    try:
        base = db.execute(_FIND[where], (topic.id, partition, offset)).fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return base if base is None or type(base) is int else f"the index has {base!r} for an offset"


def _next_start(db: sqlite3.Connection, topic: TopicRow, partition: int, offset: int, limit: int) -> int:
    """Where the next row that verifies begins, at most ``limit``."""
    while True:
        base = _locate(db, topic, partition, offset, "above")
        if not isinstance(base, int) or base >= limit or base <= offset:
            return limit
        row = _good_row(db, topic, partition, base)
        if isinstance(row, BatchRow) and row.base == base:
            return base
        offset = base


def damaged_docs(db: sqlite3.Connection, after: str, limit: int) -> tuple[list[tuple[str, str]], str | None]:
    """Documents that do not verify among the next few, as (key, reason), and the key to go on behind."""
    found = db.execute("SELECT key, frame FROM docs WHERE key > ? ORDER BY key LIMIT ?", (after, limit)).fetchall()
    damaged = []
    for key, frame in found:
        try:
            rows.unsealed(str(key), frame)
        except (LogCorrupt, UnsupportedLogVersion) as error:
            damaged.append((str(key), rows.reason_of(error)))
    return damaged, str(found[-1][0]) if len(found) == limit else None
