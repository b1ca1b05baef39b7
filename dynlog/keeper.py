"""What a compaction keeps: a fold over a partition that knows which records a later fold cannot do without.

`KeyedLatest` keeps the newest record of every key.  A state whose records do more than replace one another brings a
`Keeper` of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from dynlog.batch import Batch, StoredRecord
from dynlog.errors import ConfigurationError
from dynlog.record import Record

MOVED = "dynlog-moved"
"""Header of a record that a compaction moved: the offset at which it was first stored, in decimal."""
MOVED_TIME = "dynlog-moved-time"
"""Header of a record that a compaction moved: the log time at which it was first stored, in decimal milliseconds."""

Fetch = Callable[[Sequence[int], int], Awaitable[tuple[list[StoredRecord], int]]]
"""Reads the records at some of the offsets (in order), from an index on: those, and the index to go on with.  What is
no longer there is left out; what is returned is no more than an append takes."""


class Keeper(Protocol):
    """Says what has to be appended so that a fold of what lies from ``start`` on equals a fold of everything.

    It is given every record of the partition once and in order, as any reader is, those that it had appended among
    them.  Others go on appending meanwhile, also between two of its appends; but between what `make` was computed from
    and the place where its records come to lie there is nothing (they are appended with ``expect``).  So each append
    may rely on everything before it, and a fold whose verdicts depend on what is there already must be able to start
    in the middle of all this.
    """

    def apply(self, batch: Batch) -> None:
        """Folds the records in; raises ConfigurationError for one that forbids compaction of this topic."""

    def begin(self, start: int) -> int:
        """The log is to begin at ``start``, which is at or below the end of what was folded; about how many records
        will have to be appended for it?  May be called again, with a higher ``start``: everything begins anew."""

    async def prepare(self, fetch: Fetch) -> bool:
        """Takes up the next piece of work, reading old records if need be; False once nothing is left to do."""

    def make(self) -> Sequence[Record]:
        """The records to append now, at the end of what was folded: at most an append's worth, none once the piece
        is done.  Called again after everything that came meanwhile was folded, whether its records were stored or not;
        only by folding them does it learn that they were.  They have no marks."""


class Moved(NamedTuple):
    """Where and when a record was first stored."""

    offset: int
    log_time_ms: int


def moved_from(headers: Mapping[str, bytes]) -> Moved | None:
    """Where the record with these headers was first stored, or None if it lies there still."""
    try:
        return Moved(int(headers[MOVED]), int(headers[MOVED_TIME]))
    except (KeyError, ValueError):
        return None


def moved(stored: StoredRecord) -> Record:
    """The record as a compaction appends it: all that it was but its mark, and where it comes from, however often."""
    record = stored.record
    origin = moved_from(record.headers) or Moved(stored.offset, stored.log_time_ms)
    told = {MOVED: b"%d" % origin.offset, MOVED_TIME: b"%d" % origin.log_time_ms}
    return replace(record, headers={**record.headers, **told}, mark=None)


class KeyedLatest:
    """Keeps the newest record of every key; one without parts is a tombstone, after which nothing of the key is kept.

    Holds every key and one number for it, and no bodies.
    """

    def __init__(self) -> None:
        # The offset of the newest record, or ~offset of a tombstone; in the order of the offsets, so that none has to
        # sort a million of them, which would hold up the event loop even from a thread.
        self._newest: dict[bytes, int] = {}
        self._wanted = array("q")
        self._at = 0
        self._pending: list[StoredRecord] = []

    def apply(self, batch: Batch) -> None:
        for offset, key, body in zip(batch.offsets, batch.keys, batch.bodies, strict=True):
            if key is None:
                raise ConfigurationError(
                    f"topic {batch.topic!r}, partition {batch.partition}: the record at offset {offset} has no key, so "
                    "nothing ever replaces it: a topic is compacted by key only if all its records have one"
                )
            self._newest.pop(key, None)
            self._newest[key] = offset if body else ~offset

    def begin(self, start: int) -> int:
        self._wanted = array("q", (offset for offset in self._newest.values() if 0 <= offset < start))
        self._at, self._pending = 0, []
        return len(self._wanted)

    async def prepare(self, fetch: Fetch) -> bool:
        if self._at >= len(self._wanted):
            return False
        self._pending, self._at = await fetch(self._wanted, self._at)
        return True

    def make(self) -> Sequence[Record]:
        # What was replaced since, or lies at the end already, is no longer the newest.
        still = [stored for stored in self._pending if self._newest.get(stored.record.key or b"") == stored.offset]
        return [moved(stored) for stored in still]
