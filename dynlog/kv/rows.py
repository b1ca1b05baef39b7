"""What is known of a key at one revision, as a row; and many rows as bytes, in columns.

Rows are plain tuples of plain things: the garbage collector stops looking at them, and a million of them are made from
columns by one loop of C.

    body     msgpack [keys, values, revisions, created, changes, times, leases | nil, ttls | nil, ops | nil]
             keys, leases: [str]   values: [bin]   ops: bin of u8   the others: bin of i64, little-endian

A key stands there once for each of its rows, the oldest first; all rows of a key are neighbours.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

Row = tuple[bytes, int, int, int, int, str, int, int]
"""(value, revision, created, changes, time_ms, lease, ttl_ms, op)."""
VALUE: Final = 0
REVISION: Final = 1
CREATED: Final = 2
CHANGES: Final = 3
TIME: Final = 4
LEASE: Final = 5
TTL: Final = 6
OP: Final = 7


class Op(IntEnum):
    """What happened to a key at a revision."""

    PUT = 0
    DELETE = 1  # somebody deleted it
    LAPSE = 2  # its time to live was over
    RELEASE = 3  # its lease ended


PUT: Final = 0
_OPS = tuple(Op)


class Entry(NamedTuple):
    """A key at one revision.

    ``revision`` is the offset of the record that made it so; ``created`` that of the record since which the key has
    been there, and ``changes`` counts from there (1 is the creation).  ``time_ms`` is the log time of the record.
    ``lease`` is the id of the lease that it is bound to, or ""; ``ttl_ms`` is 0 for a value that stays.  If ``op`` is
    not PUT the key was gone from then on.
    """

    key: str
    value: bytes
    revision: int
    created: int
    changes: int
    time_ms: int
    lease: str
    ttl_ms: int
    op: Op


def entry_of(key: str, row: Row) -> Entry:
    """The row as it is shown."""
    value, revision, created, changes, time_ms, lease, ttl_ms, op = row
    return Entry(key, value, revision, created, changes, time_ms, lease, ttl_ms, _OPS[op])


def pack_rows(keys: Sequence[str], rows: Sequence[Row]) -> bytes:
    """The body."""
    values, revisions, created, changes, times, leases, ttls, ops = zip(*rows, strict=True) if rows else [()] * 8
    packed: bytes = msgpack.packb(
        [
            keys,
            values,
            *map(_column, (revisions, created, changes, times)),
            leases if any(leases) else None,
            _column(ttls) if any(ttls) else None,
            bytes(ops) if any(ops) else None,
        ]
    )
    return packed


def unpack_rows(body: bytes, *, plain: bool = False) -> tuple[list[str], list[Row]]:
    """Keys and rows; raises ValueError for anything that `pack_rows` does not make.

    ``plain`` rows are of keys that are there, and have neither a lease nor a time to live.
    """
    try:
        keys, values, *numbers, leases, ttls, ops = msgpack.unpackb(body)
        count = len(keys)
        if len(numbers) != 4:
            raise ValueError(f"{len(numbers)} columns of numbers")
        if set(map(type, keys)) - {str} or set(map(type, values)) - {bytes} or set(map(type, leases or ())) - {str}:
            raise ValueError("a column of the wrong type")
        if plain and (leases, ttls, ops) != (None, None, None):
            raise ValueError("rows that are not plain")
        revisions, created, changes, times = map(_numbers, numbers)
        columns: tuple[Any, ...] = (
            values,
            revisions,
            created,
            changes,
            times,
            [""] * count if leases is None else leases,
            bytes(count) if ttls is None else _numbers(ttls),
            bytes(count) if ops is None else ops,
        )
        if not (ops is None or (type(ops) is bytes and (not ops or max(ops) <= max(Op)))):
            raise ValueError("a change of an unknown kind")
        return keys, list(zip(*columns, strict=True)) if _agree(columns, count) else []
    except (TypeError, IndexError, msgpack.UnpackException) as error:
        raise ValueError(f"not rows of a bucket: {error!r}") from None


def _agree(columns: Iterable[Sequence[object]], count: int) -> bool:
    if any(len(column) != count for column in columns):
        raise ValueError("columns of different lengths")
    return True


def _column(numbers: Iterable[int]) -> bytes:
    column = array("q", numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _numbers(column: bytes) -> array[int]:
    numbers = array("q", column)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def chunks(pairs: Iterator[tuple[str, Row]], *, most: int, rows: int = 1000) -> Iterator[tuple[list[str], list[Row]]]:
    """The pairs in pieces of about ``most`` bytes and at most ``rows`` rows; a single row may be larger."""
    keys: list[str] = []
    found: list[Row] = []
    size = 0
    for key, row in pairs:
        weight = row_size(key, row)
        if keys and (size + weight > most or len(keys) >= rows):
            yield keys, found
            keys, found, size = [], [], 0
        keys.append(key)
        found.append(row)
        size += weight
    if keys:
        yield keys, found


def row_size(key: str, row: Row) -> int:
    """At most this many bytes does the row take in a body."""
    return 4 * len(key) + len(row[VALUE]) + 4 * len(row[LEASE]) + 64
