"""A read returns what was appended or says what is damaged: the rows have to reach from the position to the end.

Runs in a reader's thread, within one transaction, so that the partition's document and its rows agree.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from dynlog.batch import Batch, BatchBuilder, Position, slice_columns
from dynlog.codec import Columns, decode_records, unseal
from dynlog.errors import LogCorrupt, MalformedRecord
from dynlog.storage.ledger import beyond_end, check_partition, other_incarnation, truncated
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.failures import code_of
from dynlog.storage.sqlite.memo import RowMemo
from dynlog.storage.sqlite.readers import View
from dynlog.storage.sqlite.rows import ADVICE, BatchRow, Part, TopicRow
from dynlog.topics import PartitionState

MAX_RECORDS_AT_ONCE = 1 << 17
_COLUMNS = "base, next, log_time_ms, before, frame"
_FROM = f"""SELECT {_COLUMNS} FROM batches WHERE topic = :topic AND partition = :partition AND base >= coalesce(
    (SELECT max(base) FROM batches WHERE topic = :topic AND partition = :partition AND base <= :offset), :offset)
    ORDER BY base"""


def part_of(view: View, topic: TopicRow, partition: int) -> Part:
    """A partition's document; raises LogCorrupt if it is missing."""
    return Part(*rows.get(view.db, rows.part_key(topic.id, partition)))


def read(view: View, position: Position, max_records: int | None, max_bytes: int) -> Batch:
    """The batch at a position; raises TopicNotFound, PartitionNotFound, LogDiverged, OffsetTruncated, LogCorrupt."""
    topic = view.topic(position.topic)
    if topic.topic.incarnation != position.incarnation:
        raise other_incarnation(position.topic, position.partition, position.incarnation, topic.topic.incarnation)
    partition = check_partition(position.topic, topic.topic.partitions, position.partition)
    part = part_of(view, topic, partition)
    offset = position.offset
    if offset > part.end:
        raise beyond_end(position.topic, partition, offset, part.end)
    if offset < part.earliest:
        raise truncated(position.topic, partition, offset, part.earliest)
    builder, next_offset = _collect(
        view.db, view.memo, topic, partition, part, offset, max_records or MAX_RECORDS_AT_ONCE, max_bytes
    )
    if not builder.count:
        builder.add(Columns([], [], None, None, None, []), [], 0)
    return builder.build(position.topic, topic.topic.incarnation, partition, next_offset, part.end)


def _collect(
    db: sqlite3.Connection,
    memo: RowMemo,
    topic: TopicRow,
    partition: int,
    part: Part,
    offset: int,
    most: int,
    max_bytes: int,
) -> tuple[BatchBuilder, int]:
    """Walks the chain; damage behind records that were found already is left to the next read."""
    builder = BatchBuilder()
    size = 0
    try:
        for row in chain(db, topic, partition, part, offset):
            if builder.count and size + len(row.frame) > max_bytes:
                return builder, offset
            key = (topic.id, partition, row.base, row.log_time_ms)
            whole = columns = memo.take(key) or decoded(topic, partition, row)
            low = max(offset - row.base, 0)
            high = min(row.next - row.base, low + most - builder.count)
            if len(row.frame) > max_bytes:
                high = _fitting(columns, low, high, max_bytes)
            if low or row.base + high < row.next:
                columns = slice_columns(columns, low, high)
            if row.base + high < row.next:
                memo.keep(key, whole)
            builder.add(columns, range(row.base + low, row.base + high), row.log_time_ms)
            offset = row.base + high
            size += len(row.frame)
            if builder.count >= most or size >= max_bytes or offset < row.next:
                return builder, offset
    except sqlite3.DatabaseError as error:
        if code_of(error) != sqlite3.SQLITE_CORRUPT:
            raise
        if not builder.count:
            raise broken(topic, partition, offset, str(error)) from error
        return builder, offset
    except LogCorrupt:
        if not builder.count:
            raise
        return builder, offset
    return builder, part.end


def _fitting(columns: Columns, low: int, high: int, max_bytes: int) -> int:
    """Where to cut a row that is larger than what was asked for: at least one record stays."""
    room = max_bytes
    for index in range(low, high):
        room -= sum(map(len, columns.bodies[index])) + len(columns.keys[index] or b"")
        if room < 0:
            return max(index, low + 1)
    return high


def chain(db: sqlite3.Connection, topic: TopicRow, partition: int, part: Part, offset: int) -> Iterator[BatchRow]:
    """The rows from the one that holds ``offset`` to the end, holes passed over; raises LogCorrupt where it breaks."""
    holes = holes_of(db, topic, partition, part)
    expected = offset
    first = True
    # Row by row: one may be a megabyte, and whoever walks the chain often stops after the first.
    for values in db.execute(_FROM, {"topic": topic.id, "partition": partition, "offset": offset}):
        row = checked_row(topic, partition, values, expected)
        if first and row.next <= offset:
            first = False  # the row below a hole, or below the end
            continue
        expected = behind_holes(holes, expected)
        if row.base != expected and not (first and row.base < expected < row.next):
            raise broken(topic, partition, expected, f"a row begins at {row.base}, {expected} was expected")
        if row.next > part.end:
            raise broken(topic, partition, part.end, f"a row reaches to {row.next}, the partition ends at {part.end}")
        first = False
        expected = row.next
        yield row
    expected = behind_holes(holes, expected)
    if expected != part.end:
        raise broken(topic, partition, expected, f"the rows end at {expected}, the partition ends at {part.end}")


def holes_of(db: sqlite3.Connection, topic: TopicRow, partition: int, part: Part) -> dict[int, int]:
    """Where quarantines left holes: start to end."""
    if not part.holes:
        return {}
    found = rows.whole_family(db, rows.hole_key(topic.id, partition), part.holes)
    return {start: end for _, (start, end) in found}


def behind_holes(holes: dict[int, int], offset: int) -> int:
    """The offset, or the end of the hole that it lies in."""
    for start, end in holes.items():
        if start <= offset < end:
            offset = end
    return offset


def checked_row(topic: TopicRow, partition: int, values: tuple[Any, ...], expected: int) -> BatchRow:
    """A row whose columns have the right types; raises LogCorrupt."""
    row = BatchRow(*values)
    if not all(type(value) is int for value in row[:4]) or type(row.frame) is not bytes or row.next <= row.base:
        raise broken(topic, partition, expected, "a row's columns have the wrong types")
    return row


def verified(topic: TopicRow, partition: int, row: BatchRow) -> memoryview:
    """The payload of a row; raises LogCorrupt naming its first offset."""
    try:
        return unseal(row.frame, rows.place(topic, partition, row.base, row.next, row.log_time_ms, row.before))
    except MalformedRecord as error:
        raise broken(topic, partition, row.base, f"the records to {row.next} do not verify: {error}") from None


def decoded(topic: TopicRow, partition: int, row: BatchRow) -> Columns:
    """The records of a row; raises LogCorrupt naming its first offset."""
    payload = verified(topic, partition, row)
    try:
        columns = decode_records(payload)
    except MalformedRecord as error:
        raise broken(topic, partition, row.base, f"the records to {row.next} do not verify: {error}") from None
    if len(columns.keys) != row.next - row.base:
        raise broken(topic, partition, row.base, f"a row to {row.next} has {len(columns.keys)} records")
    return columns


def broken(topic: TopicRow, partition: int, offset: int, what: str) -> LogCorrupt:
    """The error that names the place."""
    return LogCorrupt(
        f"stored records are damaged: {what}; {ADVICE}", topic=topic.topic.name, partition=partition, offset=offset
    )


def partition_states(view: View, name: str) -> list[PartitionState]:
    """Bounds and sizes of all partitions of a topic."""
    topic = view.topic(name)
    states = []
    for partition in range(topic.topic.partitions):
        part = part_of(view, topic, partition)
        states.append(PartitionState(partition, part.earliest, part.end, part.bytes, part.batches, part.log_time_ms))
    return states


def row_at(db: sqlite3.Connection, topic: TopicRow, partition: int, part: Part, offset: int) -> BatchRow | None:
    """The row that holds an offset, verified, or None within a hole; raises LogCorrupt."""
    values = db.execute(_FROM + " LIMIT 1", {"topic": topic.id, "partition": partition, "offset": offset}).fetchone()
    if values is not None:
        row = checked_row(topic, partition, values, offset)
        if row.base <= offset < row.next <= part.end:
            verified(topic, partition, row)
            return row
    if behind_holes(holes_of(db, topic, partition, part), offset) == offset:
        raise broken(topic, partition, offset, "no row holds the offset")
    return None


def offset_at(view: View, name: str, partition: int, log_time_ms: int) -> int:
    """The first offset taken at or after the time: rows do not decrease in log time, so bisection finds it."""
    topic = view.topic(name)
    part = part_of(view, topic, check_partition(name, topic.topic.partitions, partition))
    holes = holes_of(view.db, topic, partition, part)
    low, high = part.earliest, part.end
    while low < high:
        middle = behind_holes(holes, (low + high) // 2)
        row = row_at(view.db, topic, partition, part, middle) if middle < high else None
        if row is None:
            high = (low + high) // 2  # nothing but a hole from there to ``high``
        elif row.log_time_ms < log_time_ms:
            low = row.next
        else:
            high = max(row.base, low)
    return behind_holes(holes, low)
