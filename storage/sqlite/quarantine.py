"""Quarantine: what cannot be read is moved aside, becomes a recorded hole or is counted out, and nothing else changes.

Runs in one transaction on a connection of its own, under the write lock; where SQLite's own pages are damaged or gone,
on what could be salvaged of them, which replaces the log at the end.  A lost tail is another matter: the offsets of
acknowledged records would be given out again, so it is only accepted when told to, under new incarnations.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dynlog.errors import LogCorrupt
from dynlog.storage.ledger import KEPT_EVENTS, LOSS_ACCEPTED, QUARANTINED
from dynlog.storage.sqlite import bell, rows
from dynlog.storage.sqlite.options import Settings
from dynlog.storage.sqlite.rows import Census, Part, TopicRow
from dynlog.storage.sqlite.salvage import rebuilt
from dynlog.storage.sqlite.scan import damaged_docs, scan
from dynlog.storage.sqlite.schema import SET_ASIDE, connect, lenient
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.storage.sqlite.vanished import Vanished, vanished
from dynlog.storage.sqlite.verify import bell_damage, count_family, structure_damage
from dynlog.topics import Damage

_ROW_ASIDE = (
    "INSERT INTO quarantine SELECT ?, ?, NULL, * FROM batches"
    " WHERE topic = ? AND partition = ? AND base >= ? AND base < ?"
)


class Repair(NamedTuple):
    """What the whole quarantine needs to know."""

    path: Path
    settings: Settings
    identity: str
    accept_loss: bool
    now_ms: int


def quarantine(repair: Repair) -> list[Damage]:
    """Sets aside what is damaged; raises LogCorrupt for a lost tail unless it is accepted, and then changes nothing."""
    reading = bell.look(repair.path)
    with closing(connect(repair.path, "rw", lenient(repair.settings))) as db:
        commit = rows.Head(*rows.get(db, "head")).commit
        lost = bell_damage(commit, reading, repair.path, repair.identity)
        if lost and not repair.accept_loss:
            raise LogCorrupt(f"{lost[0].reason}; restore a newer copy, or accept the loss explicitly (accept_loss)")
        found = structure_damage(repair.path, repair.settings)
        if found:
            with rebuilt(db, repair.path) as fresh:
                found, number = _set_aside(fresh, reading, lost, found, repair)
            with suppress(sqlite3.OperationalError):  # a reader looks at it right now; it stays in the write-ahead log
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        else:
            found, number = _set_aside(db, reading, lost, found, repair)
    if lost:
        bell.create(repair.path, uuid.UUID(repair.identity).bytes, number)
    return lost + found


def _set_aside(
    db: sqlite3.Connection,
    reading: bell.Reading | bell.Broken,
    lost: list[Damage],
    pages: list[Damage],
    repair: Repair,
) -> tuple[list[Damage], int]:
    """The one transaction: all damages but the lost tail, and the number of the commit."""
    tx = Transaction(db)
    db.execute("BEGIN IMMEDIATE")
    tx.begin()
    tx.changes += 1
    db.execute(SET_ASIDE)
    producers = tx.head.producers
    found = pages + _docs(tx, repair)
    gone = Vanished([], {}, [])
    if pages:
        gone = vanished(tx, producers, accept_loss=repair.accept_loss, now_ms=repair.now_ms)
        found += gone.damages
    for topic in tx.topics().values():
        found += _topic(tx, topic, repair)
        if pages:
            detail = f"rebuilt from what could be read: {'; '.join([pages[0].reason, *gone.of_log])}"
            tx.event(topic, repair.now_ms, QUARANTINED, detail, kept=KEPT_EVENTS)
    for name, topic in list(tx.topics().items()):
        if reason := lost[0].reason if lost else gone.ends.get(name):
            _start_anew(tx, topic, reason, repair.now_ms)
    if lost and isinstance(reading, bell.Reading):
        tx.head = tx.head._replace(commit=max(tx.head.commit, reading.commit))
    number = tx.flush()
    db.execute("COMMIT")
    return found, number


def _docs(tx: Transaction, repair: Repair) -> list[Damage]:
    """Sets damaged documents aside; those that everything else hangs on cannot be done without."""
    found = []
    after: str | None = ""
    while after is not None:
        damaged, after = damaged_docs(tx.db, after, 512)
        for key, reason in damaged:
            if key.startswith("topic/"):
                raise LogCorrupt(f"row {key!r} names a topic and cannot be rebuilt ({reason}): restore a backup")
            tx.db.execute(
                "INSERT INTO quarantine (time_ms, reason, key, frame) SELECT ?, ?, key, frame FROM docs WHERE key = ?",
                (repair.now_ms, reason, key),
            )
            tx.delete(key)
            found.append(Damage(None, None, -1, -1, f"row {key!r}: {reason}"))
    producers = count_family(tx.db, rows.producer_key())
    tx.head = tx.head._replace(producers=producers)
    return found


def _topic(tx: Transaction, topic: TopicRow, repair: Repair) -> list[Damage]:
    found: list[Damage] = []
    _recount(tx, topic)
    for partition in range(topic.topic.partitions):
        if rows.find(tx.db, rows.part_key(topic.id, partition)) is None:
            tx.set_part(topic, partition, _part_from_rows(tx.db, topic, partition))
        part = tx.part(topic, partition)
        part = part._replace(
            marks=count_family(tx.db, rows.mark_key(topic.id, partition)),
            holes=count_family(tx.db, rows.hole_key(topic.id, partition)),
        )
        tx.set_part(topic, partition, part)
        damages = [d for d in scan(tx.db, topic, partition, part, part.earliest) if isinstance(d, Damage)]
        for damage in damages:
            _make_hole(tx, topic, partition, damage, repair.now_ms)
        found += damages
    return found


def _recount(tx: Transaction, topic: TopicRow) -> None:
    """The census as it has to be after rows were set aside."""
    events = [int(key, 16) for key, _ in rows.family(tx.db, rows.event_key(topic.id))]
    values = rows.find(tx.db, rows.census_key(topic.id))
    census = Census() if values is None else Census(*values)
    following = max([census.next_event, *(number + 1 for number in events)])
    first = following - len(events)
    for number, (key, event) in enumerate(list(rows.family(tx.db, rows.event_key(topic.id))), first):
        tx.delete(rows.event_key(topic.id) + key)
        tx.put(rows.event_key(topic.id, number), event)
    tx.set_census(
        topic,
        Census(
            count_family(tx.db, rows.holder_key(topic.id)),
            count_family(tx.db, rows.group_key(topic.id)),
            first,
            following,
        ),
    )


def _part_from_rows(db: sqlite3.Connection, topic: TopicRow, partition: int) -> Part:
    """A partition whose document is gone, as far as its rows tell."""
    first, end, time, size, count, written = db.execute(
        "SELECT min(base), max(next), max(log_time_ms), sum(length(frame)), count(*), max(before + length(frame))"
        " FROM batches WHERE topic = ? AND partition = ?",
        (topic.id, partition),
    ).fetchone()
    return Part() if not count else Part(first, end, time, size, count, written, first=first)


def _make_hole(tx: Transaction, topic: TopicRow, partition: int, damage: Damage, now_ms: int) -> None:
    part = tx.part(topic, partition)
    end = damage.end if damage.end >= 0 else 1 << 62  # rows beyond the end are no hole, but they go
    covering = tx.db.execute(
        "SELECT max(base) FROM batches WHERE topic = ? AND partition = ? AND base <= ? AND next > ?",
        (topic.id, partition, damage.start, damage.start),
    ).fetchone()[0]
    bounds = (topic.id, partition, damage.start if covering is None else covering, end)
    tx.db.execute(_ROW_ASIDE, (now_ms, damage.reason, *bounds))
    tx.db.execute("DELETE FROM batches WHERE topic = ? AND partition = ? AND base >= ? AND base < ?", bounds)
    size, count = tx.db.execute(
        "SELECT coalesce(sum(length(frame)), 0), count(*) FROM batches WHERE topic = ? AND partition = ?", bounds[:2]
    ).fetchone()
    holes = part.holes
    if damage.end > damage.start:
        tx.put(rows.hole_key(topic.id, partition, damage.start), [damage.start, damage.end])
        holes += 1
    tx.set_part(topic, partition, part._replace(bytes=size, batches=count, holes=holes))
    detail = f"partition {partition} offsets {damage.start} to {damage.end}: {damage.reason}"
    tx.event(topic, now_ms, QUARANTINED, detail, kept=KEPT_EVENTS)


def _start_anew(tx: Transaction, topic: TopicRow, reason: str, now_ms: int) -> None:
    """A new incarnation; whoever is known by a position beyond the end is put at the end."""
    fresh = topic._replace(topic=replace(topic.topic, incarnation=uuid.uuid4().hex))
    tx.set_topic(fresh)
    ends = {partition: tx.part(topic, partition).end for partition in range(topic.topic.partitions)}
    for prefix in (rows.holder_key(topic.id), rows.group_key(topic.id)):
        for key, values in list(rows.family(tx.db, prefix)):
            values[1] = _clamped(values[1].items(), ends)
            tx.put(prefix + key, values)
    tx.event(topic, now_ms, LOSS_ACCEPTED, f"{reason}; incarnation {topic.topic.incarnation} ended", kept=KEPT_EVENTS)


def _clamped(positions: Iterable[tuple[int, int]], ends: dict[int, int]) -> dict[int, int]:
    return {partition: min(offset, ends[partition]) for partition, offset in positions}
