"""Truncation moves the start first, in one transaction, and then deletes in steps that no append has to wait long for.

A crash in between leaves rows below the start; every later truncation or retention of the partition takes them along.
"""

from __future__ import annotations

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
)
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.holders import expel, lag_bytes, most_bytes, stored
from dynlog.storage.sqlite.reads import chain, verified
from dynlog.storage.sqlite.rows import TopicRow
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.topics import Holder, Truncation

STEP_ROWS = 256
STEP_BYTES = 4 << 20
STEP_MARKS = 256

_PLACE = "topic = :topic AND partition = :partition"
_KEPT = f"SELECT base FROM batches WHERE {_PLACE} AND base <= :earliest AND next > :earliest ORDER BY base DESC LIMIT 1"
_BELOW = f"SELECT base, length(frame) FROM batches WHERE {_PLACE} AND base >= :first AND base < :kept ORDER BY base"
_LIGHT = f"""SELECT base, next, log_time_ms, length(frame) FROM batches
    WHERE {_PLACE} AND base < :end AND base >= coalesce(({_KEPT}), :earliest) ORDER BY base"""
_DELETE = f"DELETE FROM batches WHERE {_PLACE} AND base >= :first AND base <= :last"


def move_start(
    tx: Transaction, name: str, partition: int, before: int, force: bool, now_ms: int, incarnation: str | None = None
) -> Truncation:
    """The new start of a partition: what is below it can no longer be read.  Raises LogDiverged beyond the end."""
    topic = tx.topic(name, incarnation)
    part = tx.part(topic, check_partition(name, topic.topic.partitions, partition))
    if before > part.end:
        raise beyond_end(name, partition, before, part.end)
    if before <= part.earliest:
        return Truncation(partition, part.earliest, before)
    expel(tx, topic, now_ms)
    return _move(tx, topic, partition, before, force, now_ms, _holding(tx, topic))


def _holding(tx: Transaction, topic: TopicRow) -> list[Holder]:
    return [holder for holder, _ in stored(tx.db, topic, tx.census(topic))]


def _move(
    tx: Transaction, topic: TopicRow, partition: int, before: int, force: bool, now_ms: int, holding: list[Holder]
) -> Truncation:
    part = tx.part(topic, partition)
    limit = truncation_limit(before, partition, holding)
    target = before if force else max(limit.before, part.earliest)
    if target > part.earliest:
        tx.set_part(topic, partition, part._replace(earliest=target))
    if force:
        passed = f", passing {', '.join(limit.blocked_by)}" if limit.blocked_by else ""
        detail = f"partition {partition} from {part.earliest} to {target}{passed}"
        tx.event(topic, now_ms, TRUNCATION_FORCED, detail, kept=KEPT_EVENTS)
    return Truncation(partition, target, before, () if force else limit.blocked_by)


def retain(tx: Transaction, name: str, now_ms: int) -> list[Truncation]:
    """Expels holders and moves the starts to where retention keeps the rest, holders spared."""
    topic = tx.topic(name)
    expel(tx, topic, now_ms)
    retention = topic.topic.retention
    much = retention.max_bytes is not None and most_bytes(tx, topic) > retention.max_bytes
    if not much and retention.max_age_s is None:
        return []
    everywhere = range(topic.topic.partitions)
    cuts = retention_cuts(
        {partition: _segments(tx, topic, partition) for partition in everywhere},
        retention,
        total_bytes=sum(_size(tx, topic, partition) for partition in everywhere) if much else 0,
        now_ms=now_ms,
    )
    holding = _holding(tx, topic) if cuts else []
    for partition, before in cuts.items():
        _verify(tx, topic, partition, before)
    return [_move(tx, topic, partition, before, False, now_ms, holding) for partition, before in sorted(cuts.items())]


def _size(tx: Transaction, topic: TopicRow, partition: int) -> int:
    """What lies at or behind the start: rows below it that are not deleted yet do not count."""
    part = tx.part(topic, partition)
    return lag_bytes(tx.db, topic, partition, part, part.earliest)


def _segments(tx: Transaction, topic: TopicRow, partition: int) -> Iterable[Segment]:
    """The rows without their frames: most partitions are only looked at, and frames may be megabytes."""
    part = tx.part(topic, partition)
    where = {"topic": topic.id, "partition": partition, "earliest": part.earliest, "end": part.end}
    if part.earliest < part.end:
        yield from map(Segment._make, tx.db.execute(_LIGHT, where))


def _verify(tx: Transaction, topic: TopicRow, partition: int, before: int) -> None:
    """What is to go has to be what it says; raises LogCorrupt."""
    part = tx.part(topic, partition)
    for row in chain(tx.db, topic, partition, part, part.earliest):
        verified(topic, partition, row)
        if row.next >= before:
            break


def delete_step(tx: Transaction, name: str, partition: int, most: int = STEP_ROWS) -> bool:
    """Deletes some rows that lie wholly below the start, damaged or not; whether more may be left."""
    row = tx.topics().get(name)
    if row is None:
        return False
    part = tx.part(row, partition)
    where = {"topic": row.id, "partition": partition, "first": part.first, "earliest": part.earliest}
    kept = tx.db.execute(_KEPT, where).fetchone()
    doomed, size = 0, 0
    for base, length in tx.db.execute(_BELOW, {**where, "kept": part.earliest if kept is None else kept[0]}):
        where["last"] = base
        doomed += 1
        size += length
        if doomed == most or size >= STEP_BYTES:
            break
    if not doomed:
        return False
    tx.db.execute(_DELETE, where)
    holes = part.holes
    for key, (_, end) in list(rows.family(tx.db, rows.hole_key(row.id, partition))) if holes else ():
        if end <= part.earliest:
            holes -= tx.delete(rows.hole_key(row.id, partition) + key)
    part = part._replace(first=where["last"] + 1, bytes=part.bytes - size, batches=part.batches - doomed, holes=holes)
    tx.set_part(row, partition, part)
    return True


def drop_step(tx: Transaction, most: int = STEP_ROWS) -> bool:
    """Deletes some rows of a topic that is gone; whether more may be left."""
    gone = next(rows.family(tx.db, rows.doomed_key()), None)
    if gone is None:
        return False
    topic, size, doomed = int(gone[0], 16), 0, []
    for partition, base, length in tx.db.execute(
        "SELECT partition, base, length(frame) FROM batches WHERE topic = ? ORDER BY partition, base LIMIT ?",
        (topic, most),
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
