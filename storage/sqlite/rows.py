"""Every row of the log is protected: a document by its frame's checksum, a batch by its frame and its place in a chain.

Two tables.  ``batches`` has one row per append; each begins where the one before it ended.  ``docs`` has everything
small, one msgpack array per key, sealed under its own key; families are counted in a document above them, so that a row
that vanished from the b-tree is missed:

    log                        [identity, created_ms]
    head                       [commit, topics_version, topics, next_topic, producers]
    topic/<id>                 [name, incarnation, origin, partitions, max_age_s, max_bytes, created_ms, labels]
    census/<id>                [holders, groups, first_event, next_event]
    part/<id>/<p>              [earliest, end, log_time_ms, bytes, batches, written, marks, holes, first]
    hole/<id>/<p>/<start>      [start, end]
    mark/<id>/<p>/<producer>   [epoch, last, seen_ms, [[sequence, length, offset], ...]]
    producer/<name>            [epoch]
    holder/<id>/<name>         [kind, positions, expires_after_s, max_lag_bytes, last_seen_ms]
    group/<id>/<name>          [generation, positions]
    event/<id>/<n>             [time_ms, kind, detail]
    doomed/<id>                []: the topic is gone, its batches are being deleted
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from dynlog.codec import seal, unseal
from dynlog.errors import LogCorrupt, MalformedRecord
from dynlog.marks import MarkState, Stretch
from dynlog.packing import pack
from dynlog.storage.sqlite.failures import ADVICE as ADVICE
from dynlog.topics import Retention, Topic

PLACE = struct.Struct("<16sIqqqq")


def reason_of(error: Exception) -> str:
    """What is wrong, without the advice to run what found it."""
    return str(error).replace(f"; {ADVICE}", "").replace(f": {ADVICE}", "")


class Head(NamedTuple):
    """What changes with each commit; ``commit`` is the number that the bell must not be ahead of."""

    commit: int
    topics_version: int
    topics: int
    next_topic: int
    producers: int


class TopicRow(NamedTuple):
    """``origin`` is the incarnation under which the rows were sealed; a repair that accepts a loss changes only
    ``incarnation``."""

    id: int
    topic: Topic
    origin: bytes


class Part(NamedTuple):
    """A partition: offsets ``earliest <= o < end``; its rows lie from ``first`` (at or below ``earliest``) on.

    ``written`` counts every byte ever appended, so that what lies behind a row is a subtraction.
    """

    earliest: int = 0
    end: int = 0
    log_time_ms: int = 0
    bytes: int = 0
    batches: int = 0
    written: int = 0
    marks: int = 0
    holes: int = 0
    first: int = 0


class Census(NamedTuple):
    """How many holders and groups a topic has, and which events it keeps."""

    holders: int = 0
    groups: int = 0
    first_event: int = 0
    next_event: int = 0


class BatchRow(NamedTuple):
    """One append as stored; ``before`` is the partition's ``written`` before it."""

    base: int
    next: int
    log_time_ms: int
    before: int
    frame: bytes


def topic_key(topic: int) -> str:
    """Key of a topic."""
    return f"topic/{topic:08x}"


def census_key(topic: int) -> str:
    """Key of a topic's census."""
    return f"census/{topic:08x}"


def part_key(topic: int, partition: int) -> str:
    """Key of a partition."""
    return f"part/{topic:08x}/{partition:04x}"


def hole_key(topic: int, partition: int, start: int | None = None) -> str:
    """Key of a hole, or of the family of a partition's holes."""
    return f"hole/{topic:08x}/{partition:04x}/" + ("" if start is None else f"{start:016x}")


def mark_key(topic: int, partition: int, producer: str = "") -> str:
    """Key of what is known of a producer in a partition, or of the family."""
    return f"mark/{topic:08x}/{partition:04x}/{producer}"


def producer_key(producer: str = "") -> str:
    """Key of a registration, or of the family."""
    return f"producer/{producer}"


def holder_key(topic: int, name: str = "") -> str:
    """Key of a holder, or of the family of a topic's holders."""
    return f"holder/{topic:08x}/{name}"


def group_key(topic: int, name: str = "") -> str:
    """Key of a group, or of the family of a topic's groups."""
    return f"group/{topic:08x}/{name}"


def event_key(topic: int, number: int | None = None) -> str:
    """Key of an event, or of the family of a topic's events."""
    return f"event/{topic:08x}/" + ("" if number is None else f"{number:016x}")


def doomed_key(topic: int | None = None) -> str:
    """Key of a topic that is gone, or of the family."""
    return "doomed/" + ("" if topic is None else f"{topic:08x}")


def sealed(key: str, values: Any) -> bytes:
    """The frame of a document; it verifies only under its own key."""
    return seal(pack(values), key.encode())


def unsealed(key: str, frame: object) -> list[Any]:
    """The values of a document; raises LogCorrupt naming the key."""
    if not isinstance(frame, bytes):
        raise LogCorrupt(f"the row {key!r} is damaged: its frame is {type(frame).__name__}; {ADVICE}")
    try:
        values: list[Any] = msgpack.unpackb(unseal(frame, key.encode()), strict_map_key=False)
    except MalformedRecord as error:
        raise LogCorrupt(f"the row {key!r} is damaged: {error}; {ADVICE}") from None
    return values


def find(db: sqlite3.Connection, key: str) -> list[Any] | None:
    """A document's values, or None."""
    row = db.execute("SELECT frame FROM docs WHERE key = ?", (key,)).fetchone()
    return None if row is None else unsealed(key, row[0])


def get(db: sqlite3.Connection, key: str) -> list[Any]:
    """The values of a document that must be there; raises LogCorrupt."""
    return unsealed(key, frame_of(db, key))


def frame_of(db: sqlite3.Connection, key: str) -> object:
    """The frame of a document that must be there, not looked into; raises LogCorrupt."""
    row = db.execute("SELECT frame FROM docs WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise LogCorrupt(f"the row {key!r} is missing; {ADVICE}")
    return row[0]


def family(db: sqlite3.Connection, prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """The documents whose keys begin with ``prefix`` (which ends in a slash), in order: rest of the key, values."""
    for key, frame in db.execute(
        "SELECT key, frame FROM docs WHERE key >= ? AND key < ? ORDER BY key", (prefix, after(prefix))
    ):
        if not isinstance(key, str) or not key.startswith(prefix):
            raise LogCorrupt(f"a row among {prefix!r} is damaged: its key is {key!r}; {ADVICE}")
        yield key[len(prefix) :], unsealed(key, frame)


def whole_family(db: sqlite3.Connection, prefix: str, count: int) -> list[tuple[str, list[Any]]]:
    """All documents of a family; raises LogCorrupt unless there are as many as were counted."""
    found = list(family(db, prefix))
    if len(found) != count:
        raise LogCorrupt(f"{len(found)} rows lie under {prefix!r}, {count} were stored; {ADVICE}")
    return found


def after(prefix: str) -> str:
    """The first key behind a family."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def place(topic: TopicRow, partition: int, base: int, next_: int, log_time_ms: int, before: int) -> bytes:
    """The context under which a batch is sealed: a frame read from elsewhere does not verify."""
    return PLACE.pack(topic.origin, partition, base, next_, log_time_ms, before)


def topic_row(topic: int, values: list[Any]) -> TopicRow:
    """A topic from its document."""
    name, incarnation, origin, partitions, max_age_s, max_bytes, created_ms, labels = values
    return TopicRow(
        topic, Topic(name, incarnation, partitions, Retention(max_age_s, max_bytes), created_ms, labels), origin
    )


def topic_values(row: TopicRow) -> list[Any]:
    """A topic's document."""
    t = row.topic
    return [
        t.name, t.incarnation, row.origin, t.partitions, t.retention.max_age_s, t.retention.max_bytes, t.created_ms,
        dict(t.labels),
    ]  # fmt: skip


def all_topics(db: sqlite3.Connection, head: Head) -> dict[str, TopicRow]:
    """Every topic by name; raises LogCorrupt if one is missing."""
    rows = [topic_row(int(key, 16), values) for key, values in whole_family(db, "topic/", head.topics)]
    return {row.topic.name: row for row in rows}


def mark_state(values: list[Any]) -> MarkState:
    """What is known of a producer, from its document."""
    epoch, last, seen_ms, stretches = values
    return MarkState(epoch, last, seen_ms, [Stretch(*stretch) for stretch in stretches])


def mark_values(state: MarkState) -> list[Any]:
    """The document of what is known of a producer."""
    return [state.epoch, state.last, state.seen_ms, state.stretches]
