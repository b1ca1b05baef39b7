"""Verifying reads everything, in steps that let others go on, and names every damage, not only the first."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from dynlog.errors import LogCorrupt, UnsupportedLogVersion
from dynlog.storage.sqlite import bell, rows
from dynlog.storage.sqlite.failures import ours, translated
from dynlog.storage.sqlite.options import Settings
from dynlog.storage.sqlite.readers import Readers, View
from dynlog.storage.sqlite.reads import part_of
from dynlog.storage.sqlite.rows import Census, TopicRow
from dynlog.storage.sqlite.scan import damaged_docs, scan
from dynlog.storage.sqlite.schema import connect, lenient, truncation
from dynlog.topics import Damage

STEP_BYTES = 4 << 20
STEP_DOCS = 512


async def verify(
    readers: Readers, path: Path, settings: Settings, identity: str, only: str | None
) -> AsyncIterator[Damage]:
    """Every damage of the log, or of one topic."""
    reading = bell.look(path)
    try:
        commit = await readers.call(lambda db: rows.Head(*rows.get(db, "head")).commit)
        for damage in bell_damage(commit, reading, path, identity):
            yield damage
    except LogCorrupt as error:
        yield unreadable("the head cannot be read", error)
    if only is None:
        for damage in await readers.call(lambda _: structure_damage(path, settings)):
            yield damage
        after: str | None = ""
        while after is not None:
            try:
                docs, after = await readers.call(_docs_step(after))
            except LogCorrupt as error:
                yield unreadable("not all documents can be read", error)
                break
            for key, reason in docs:
                yield Damage(None, None, -1, -1, f"row {key!r}: {reason}")
    try:
        known = await readers.run(lambda view: view.topics)
    except LogCorrupt as error:
        yield unreadable("the topics cannot be listed", error)
        return
    for name in [only] if only is not None else sorted(known):
        topic = await readers.run(partial(View.topic, name=name))
        for damage in await readers.run(partial(_families, topic, path)):
            yield damage
        for partition in range(topic.topic.partitions):
            start: int | None = -1
            while start is not None:
                found, start = await readers.run(_partition_step(topic, partition, start, path))
                for damage in found:
                    yield damage


def bell_damage(commit: int, reading: bell.Reading | bell.Broken, path: Path, identity: str) -> list[Damage]:
    """What is wrong between database and bell."""
    if isinstance(reading, bell.Broken):
        reason = f"the bell {bell.bell_path(path).name} {reading.value}: whether the tail is lost is unknown"
    elif reading.identity.hex() != identity:
        reason = f"the bell {bell.bell_path(path).name} is another log's"
    elif commit < reading.commit:
        reason = f"the tail is lost: commit {reading.commit} was acknowledged, the log ends at commit {commit}"
    else:
        return []
    return [Damage(None, None, -1, -1, reason)]


def structure_damage(path: Path, settings: Settings) -> list[Damage]:
    """What SQLite itself finds wrong with its pages."""
    cut = truncation(path, settings)
    found = [] if cut is None else [cut]
    with closing(connect(path, "ro", lenient(settings))) as db:
        try:
            for (said,) in db.execute("PRAGMA quick_check(100)"):
                found += [f"database pages: {line}" for line in str(said).splitlines() if line[:3] not in ("ok", "***")]
        except sqlite3.DatabaseError as error:
            if not isinstance(translated(error, path), LogCorrupt):
                raise
            found.append(f"database pages: {error}")
    return [Damage(None, None, -1, -1, reason) for reason in found]


def unreadable(what: str, error: LogCorrupt) -> Damage:
    """Damage that keeps the rest from being looked at."""
    return Damage(None, None, -1, -1, f"{what}: {rows.reason_of(error)}")


def family_damage(db: sqlite3.Connection, topic: TopicRow) -> list[Damage]:
    """Families of a topic whose rows are not as many as were counted."""
    found = []
    try:
        census = Census(*rows.get(db, rows.census_key(topic.id)))
        families = [
            (rows.holder_key(topic.id), census.holders),
            (rows.group_key(topic.id), census.groups),
            (rows.event_key(topic.id), census.next_event - census.first_event),
        ]
    except LogCorrupt as error:
        return [Damage(topic.topic.name, None, -1, -1, rows.reason_of(error))]
    for prefix, count in families:
        there = count_family(db, prefix)
        if there != count:
            found.append(Damage(topic.topic.name, None, -1, -1, f"{there} rows under {prefix!r}, {count} were stored"))
    return found


def _families(topic: TopicRow, path: Path, view: View) -> list[Damage]:
    try:
        with ours(path):
            return family_damage(view.db, topic)
    except LogCorrupt as error:
        return [Damage(topic.topic.name, None, -1, -1, rows.reason_of(error))]


def count_family(db: sqlite3.Connection, prefix: str) -> int:
    """How many documents a family has, whatever they contain."""
    count: int = db.execute(
        "SELECT count(*) FROM docs WHERE key >= ? AND key < ?", (prefix, rows.after(prefix))
    ).fetchone()[0]
    return count


def _docs_step(after: str) -> Callable[[sqlite3.Connection], tuple[list[tuple[str, str]], str | None]]:
    return lambda db: damaged_docs(db, after, STEP_DOCS)


def _partition_step(
    topic: TopicRow, partition: int, start: int, path: Path
) -> Callable[[View], tuple[list[Damage], int | None]]:
    """Some megabytes of a partition: the damages, and where to go on."""

    def work(view: View) -> tuple[list[Damage], int | None]:
        name = topic.topic.name
        current = view.topics.get(name)
        if current is None or current.id != topic.id:
            return [], None  # deleted meanwhile
        found: list[Damage] = []
        try:
            with ours(path):
                part = part_of(view, topic, partition)
                if start < 0:
                    found += mark_damage(view.db, topic, partition, part.marks)
                size = 0
                for item in scan(view.db, topic, partition, part, max(start, part.earliest)):
                    if isinstance(item, Damage):
                        found.append(item)
                        continue
                    size += len(item.frame)
                    if size > STEP_BYTES:
                        return found, item.next
        except (LogCorrupt, UnsupportedLogVersion) as error:
            found.append(Damage(name, partition, -1, -1, rows.reason_of(error)))
        return found, None

    return work


def mark_damage(db: sqlite3.Connection, topic: TopicRow, partition: int, count: int) -> list[Damage]:
    """Producers of a partition that are not as many as were counted."""
    there = count_family(db, rows.mark_key(topic.id, partition))
    if there == count:
        return []
    reason = f"{there} producers are known, {count} were stored"
    return [Damage(topic.topic.name, partition, -1, -1, reason)]
