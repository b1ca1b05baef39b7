"""A bucket's snapshot: a picture of the state in parts, columns of about a thousand rows each.

    part 0    msgpack [schema, rows, leases, staged, next, time, compacted, dirty_from, complete, passes]
    others    kind u8 | body:   1 plain rows, 2 other rows (see `dynlog.kv.rows`), 3 leases, 4 a staged picture

Plain rows are what a bucket mostly has: keys that are there, without a past, a lease or a time to live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgpack

from dynlog.errors import MalformedRecord, SnapshotCorrupt
from dynlog.kv.lease_fold import Lease, pack_leases, unpack_leases
from dynlog.kv.records import Picture, from_parts, to_record
from dynlog.kv.rows import LEASE, OP, TTL, Row, chunks, pack_rows, unpack_rows

SCHEMA = "kv/1"
PART_BYTES = 256 << 10
PART_LEASES = 1000
PLAIN, OTHER, LEASE_PART, STAGED = b"\x01", b"\x02", b"\x03", b"\x04"


class Head(NamedTuple):
    """What the fold knows beside its rows and leases."""

    next: int
    time_ms: int
    compacted: int
    dirty_from: int
    complete: bool
    passes: list[tuple[int, int, str]]


class Rows(NamedTuple):
    """Some rows; ``plain`` ones are one per key, there, and without lease and time to live."""

    keys: list[str]
    rows: list[Row]
    plain: bool


def write(
    head: Head,
    counts: tuple[int, int, int],
    keys: Iterator[tuple[str, Sequence[Row]]],
    leases: list[Lease],
    staged: list[Picture],
) -> Iterator[bytes]:
    """The parts; nothing of what is given may change any more.  ``counts`` are of rows, leases and pictures."""
    yield msgpack.packb([SCHEMA, *counts, *head])
    others: list[tuple[str, Row]] = []

    def plain() -> Iterator[tuple[str, Row]]:
        for key, rows in keys:
            row = rows[-1]
            if len(rows) > 1 or row[OP] or row[LEASE] or row[TTL]:
                others.extend((key, each) for each in rows)
            else:
                yield key, row

    for part_keys, rows in chunks(plain(), most=PART_BYTES):
        yield PLAIN + pack_rows(part_keys, rows)
    for part_keys, rows in chunks(iter(others), most=PART_BYTES):
        yield OTHER + pack_rows(part_keys, rows)
    remaining = iter(leases)
    while piece := list(islice(remaining, PART_LEASES)):
        yield LEASE_PART + pack_leases(piece)
    for picture in staged:
        yield STAGED + msgpack.packb([bytes(part) for part in to_record(picture).parts])


def read(parts: Iterable[bytes]) -> Iterator[Head | Rows | list[Lease] | Picture]:
    """What the parts hold, in order; raises SnapshotCorrupt unless they are exactly what `write` makes."""
    try:
        pieces = iter(parts)
        schema, *counts_and_head = msgpack.unpackb(next(pieces))
        if schema != SCHEMA:
            raise SnapshotCorrupt(f"a bucket of schema {schema!r}, this dynlog reads {SCHEMA!r}")
        expected, head = counts_and_head[:3], Head(*counts_and_head[3:])
        passes = [(start, section, after) for start, section, after in head.passes]
        if tuple(map(type, head)) != _HEAD or any(tuple(map(type, each)) != (int, int, str) for each in passes):
            raise ValueError("a head of the wrong types")
        yield head._replace(passes=passes)
        found = [0, 0, 0]
        for piece in pieces:
            kind, body = piece[:1], piece[1:]
            if kind in (PLAIN, OTHER):
                keys, rows = unpack_rows(body, plain=kind == PLAIN)
                if kind == PLAIN and len(set(keys)) < len(keys):
                    raise ValueError("plain rows of one key")
                found[0] += len(keys)
                yield Rows(keys, rows, kind == PLAIN)
            elif kind == LEASE_PART:
                leases = list(unpack_leases(body))
                found[1] += len(leases)
                yield leases
            elif kind == STAGED:
                picture = from_parts(None, msgpack.unpackb(body))
                if not isinstance(picture, Picture):
                    raise ValueError("no picture")
                found[2] += 1
                yield picture
            else:
                raise ValueError(f"a part of kind {kind!r}")
    except (
        ValueError,
        TypeError,
        IndexError,
        StopIteration,
        RuntimeError,
        MalformedRecord,
        msgpack.UnpackException,
    ) as error:
        raise SnapshotCorrupt(f"not a key-value bucket: {error!r}") from None
    if found != expected:
        raise SnapshotCorrupt(f"a bucket with {found} rows, leases and pictures instead of {expected}")


_HEAD = (int, int, int, int, bool, list)
