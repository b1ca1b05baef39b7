"""What a compaction writes: range by range, the truth about a bucket's leases and then its keys.

A write is decided against what its key was, so a reader that begins in the middle of the log cannot decide those that
it meets before it knows the key.  It need not: each picture, appended with ``expect=`` the place that it is true of,
replaces whatever the reader thinks of that range, and once the ranges have covered all, all that it thinks is true.
Whether a key lives depends on its lease, therefore leases come before keys; and which records count depends on marks,
where the engine leaves them to the reader, therefore those come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dynlog.kv.fold import KvFold
from dynlog.kv.lease_fold import pack_leases
from dynlog.kv.records import KEYS, LEASES, MARKS, Picture
from dynlog.kv.rows import Row, chunks, pack_rows, row_size

PICTURE_ROWS = 16_384
LEASE_BYTES = 2048
"""At most so much does a lease take."""


class Place(NamedTuple):
    """How far a compaction has come: everything up to ``after`` of the section, and the sections before it."""

    section: int
    after: str


FIRST = Place(MARKS, "")


def next_pictures(fold: KvFold, start: int, place: Place, most: int, marks: Sequence[bytes] = ()) -> list[Picture]:
    """The pictures of the next range, each of about ``most`` bytes: more than one only if one key's rows need it.

    ``marks`` is a snapshot of the dedupe table as it is now, if there is one.
    """
    if place.section == MARKS:
        bodies = list(marks) or [b""]
        return [Picture(start, MARKS, "", "", n < len(bodies), body) for n, body in enumerate(bodies, 1)]
    if place.section == LEASES:
        return [_of_leases(fold, start, place.after, most)]
    keys: list[str] = []
    found: list[tuple[str, Row]] = []
    size = 0
    candidates = fold.known(place.after, PICTURE_ROWS)
    for key in candidates:
        rows = fold.rows_of(key)
        weight = sum(row_size(key, row) for row in rows)
        if keys and size + weight > most:
            break
        keys.append(key)
        found += [(key, row) for row in rows]
        size += weight
    last = len(keys) == len(candidates) < PICTURE_ROWS
    return list(_of_rows(found, start, place.after, "" if last else keys[-1], most))


def _of_rows(found: list[tuple[str, Row]], start: int, after: str, upto: str, most: int) -> Iterator[Picture]:
    pieces = [pack_rows(keys, rows) for keys, rows in chunks(iter(found), most=most, rows=len(found) + 1)] or [
        pack_rows([], [])
    ]
    for number, piece in enumerate(pieces, 1):
        yield Picture(start, KEYS, after, upto, number < len(pieces), piece)


def _of_leases(fold: KvFold, start: int, after: str, most: int) -> Picture:
    ids = sorted(id for id in fold.leases if id > after)
    taken = ids[: max(most // LEASE_BYTES, 1)]
    upto = taken[-1] if len(taken) < len(ids) else ""
    return Picture(start, LEASES, after, upto, False, pack_leases(fold.leases[id] for id in taken))


def behind(picture: Picture) -> Place | None:
    """Where the compaction goes on behind that picture; None if that was the last one."""
    if picture.upto:
        return Place(picture.section, picture.upto)
    return Place(picture.section + 1, "") if picture.section < KEYS else None
