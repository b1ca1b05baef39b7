"""Truncation moves the start first, in one transaction, and then deletes in steps that no append has to wait long for.

A crash in between leaves rows below the start; every later truncation or retention of the partition takes them along.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from dynlog.storage.ledger import (
    KEPT_EVENTS,
    TRUNCATION_FORCED,
    Segment,
    beyond_end,
    check_partition,
    has_expired,
    retention_cuts,
    truncation_limit,
    why_expired,
)
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.holders import expel, lag_bytes, stored
from dynlog.storage.sqlite.rows import TopicRow
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.topics import Holder, Truncation

STEP_ROWS = 256
STEP_BYTES = 4 << 20
STEP_PAGES = 512
STEP_MARKS = 256
LOOSE_PAGES = 4096
"""Automatic retention leaves so many free pages to be used again; an explicit truncation leaves none."""


def move_start(tx: Transaction, name: str, partition: int, before: int, force: bool, now_ms: int) -> Truncation:
    """The new start of a partition: what is below it can no longer be read.  Raises LogDiverged beyond the end."""
    topic = tx.topic(name)
    part = tx.part(topic, check_partition(name, topic.topic.partitions, partition))
    if before > part.end:
        raise beyond_end(name, partition, before, part.end)
    if before <= part.earliest:
        return Truncation(partition, part.earliest, before)
    limit = truncation_limit(before, partition, _unexpired(tx, topic, now_ms))
    target = before if force else max(limit.before, part.earliest)
    if target > part.earliest:
        tx.set_part(topic, partition, part._replace(earliest=target))
    if force:
        passed = f", passing {', '.join(limit.blocked_by)}" if limit.blocked_by else ""
        detail = f"partition {partition} from {part.earliest} to {target}{passed}"
        tx.event(topic, now_ms, TRUNCATION_FORCED, detail, kept=KEPT_EVENTS)
    return Truncation(partition, target, before, () if force else limit.blocked_by)


def _unexpired(tx: Transaction, topic: TopicRow, now_ms: int) -> list[Holder]:
    holding = []
    for holder, last_seen_ms in stored(tx.db, topic, tx.census(topic)):
        lag = sum(
            lag_bytes(tx.db, topic, partition, tx.part(topic, partition), offset)
            for partition, offset in holder.positions.items()
        )
        if why_expired(holder, last_seen_ms, now_ms, lag) is None:
            holding.append(holder)
    return holding


def retain(tx: Transaction, name: str, now_ms: int) -> list[Truncation]:
    """Expels holders and moves the starts to where retention keeps the rest, holders spared."""
    topic = tx.topic(name)
    expel(tx, topic, now_ms)
    everywhere = range(topic.topic.partitions)
    cuts = retention_cuts(
        {partition: _segments(tx, topic, partition) for partition in everywhere},
        topic.topic.retention,
        total_bytes=sum(tx.part(topic, partition).bytes for partition in everywhere),
        now_ms=now_ms,
    )
    return [move_start(tx, name, partition, before, False, now_ms) for partition, before in sorted(cuts.items())]


def _segments(tx: Transaction, topic: TopicRow, partition: int) -> Iterable[Segment]:
    part = tx.part(topic, partition)
    for values in tx.db.execute(
        "SELECT base, next, log_time_ms, length(frame) FROM batches WHERE topic = ? AND partition = ? AND base >= ?"
        " ORDER BY base",
        (topic.id, partition, part.first),
    ):
        yield Segment(*values)


def delete_step(tx: Transaction, name: str, partition: int) -> bool:
    """Deletes some rows that lie wholly below the start; whether more are left."""
    row = tx.topics().get(name)
    if row is None:
        return False
    part = tx.part(row, partition)
    doomed, size = [], 0
    for base, next_, length in tx.db.execute(
        "SELECT base, next, length(frame) FROM batches WHERE topic = ? AND partition = ? AND base >= ? AND next <= ?"
        " ORDER BY base LIMIT ?",
        (row.id, partition, part.first, part.earliest, STEP_ROWS),
    ):
        doomed.append((base, next_))
        size += length
        if size >= STEP_BYTES:
            break
    if not doomed:
        return False
    first = doomed[-1][1]
    _delete(tx.db, row.id, partition, first)
    holes = part.holes
    for key, (_, end) in list(rows.family(tx.db, rows.hole_key(row.id, partition))) if holes else ():
        if end <= part.earliest:
            holes -= tx.delete(rows.hole_key(row.id, partition) + key)
    tx.set_part(
        row,
        partition,
        part._replace(first=first, bytes=part.bytes - size, batches=part.batches - len(doomed), holes=holes),
    )
    return True


def drop_step(tx: Transaction) -> bool:
    """Deletes some rows of a topic that is gone; whether more may be left."""
    gone = next(rows.family(tx.db, rows.doomed_key()), None)
    if gone is None:
        return False
    topic, size, doomed = int(gone[0], 16), 0, []
    for partition, base, length in tx.db.execute(
        "SELECT partition, base, length(frame) FROM batches WHERE topic = ? ORDER BY partition, base LIMIT ?",
        (topic, STEP_ROWS),
    ):
        doomed.append((topic, partition, base))
        size += length
        if size >= STEP_BYTES:
            break
    if doomed:
        tx.changes += 1
        tx.db.executemany("DELETE FROM batches WHERE topic = ? AND partition = ? AND base = ?", doomed)
    else:
        tx.delete(rows.doomed_key(topic))
    return True


def _delete(db: sqlite3.Connection, topic: int, partition: int, before: int) -> None:
    db.execute("DELETE FROM batches WHERE topic = ? AND partition = ? AND base < ?", (topic, partition, before))


def vacuum_step(tx: Transaction, keep_pages: int) -> bool:
    """Gives some free pages back to the system; whether more than ``keep_pages`` are left."""
    free: int = tx.db.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= keep_pages:
        return False
    tx.changes += 1
    tx.db.execute(f"PRAGMA incremental_vacuum({min(STEP_PAGES, free - keep_pages)})").fetchall()
    return True


def purge_step(tx: Transaction, name: str, partition: int, after: str) -> str | None:
    """Forgets expired producers among the next few behind ``after``; where to go on, or None at the end."""
    topic = tx.topics().get(name)
    if topic is None:
        return None
    part = tx.part(topic, partition)
    family = rows.mark_key(topic.id, partition)
    found = tx.db.execute(
        "SELECT key, frame FROM docs WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
        (family + after, rows.after(family), STEP_MARKS),
    ).fetchall()
    for key, frame in found:
        state = rows.mark_state(rows.unsealed(key, frame))
        if has_expired(state, part.log_time_ms):
            tx.drop_state(topic, partition, key[len(family) :])
    return found[-1][0][len(family) :] if len(found) == STEP_MARKS else None
