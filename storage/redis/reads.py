"""What a read makes of what the server sent: entries that verify, in a chain without a break, or a named error.

Each entry begins where the one before it ended.  A break that no ``gaps`` explains is damage: somebody deleted an
entry, or its bytes are not what was stored.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dynlog.batch import Batch, BatchBuilder, Position, slice_columns
from dynlog.codec import Columns, decode_records, unseal
from dynlog.errors import LogCorrupt, LogDiverged, MalformedRecord

NO_COLUMNS = Columns([], [], None, None, None, [])
LOST = "lost"
HOLE = "hole"


class Gap(NamedTuple):
    """Offsets ``start <= o < end`` that have no records: lost by a server, or set aside by `quarantine`."""

    start: int
    end: int
    kind: str


class Entry(NamedTuple):
    """One append as stored; ``next`` lies behind its last record."""

    next: int
    log_time_ms: int
    frame: memoryview

    @property
    def id(self) -> str:
        """Its id in the stream."""
        return f"{self.next}-{self.log_time_ms}"


class Page(NamedTuple):
    """What one READ returned."""

    end: int
    gaps: Sequence[Gap]
    entries: Sequence[Entry]


def gaps_of(text: bytes) -> list[Gap]:
    """The gaps of a partition as its metadata lists them."""
    parts = (item.split(":") for item in text.decode().split())
    return [Gap(int(start), int(end), kind) for start, end, kind in parts]


def page_of(reply: Sequence[bytes | int]) -> Page:
    """The page in a READ's reply; raises LogCorrupt for one that was spoilt on its way."""
    try:
        _, end, gaps, ids, frames = reply
        assert isinstance(gaps, bytes)
        assert isinstance(ids, bytes)
        assert isinstance(frames, bytes)
        return Page(int(end), gaps_of(gaps) if gaps else [], list(_entries(ids, memoryview(frames))))
    except ValueError as error:
        raise LogCorrupt(f"a reply is not what the server's script gives ({error}): spoilt on its way") from None


def _entries(ids: bytes, frames: memoryview) -> Iterator[Entry]:
    at = 0
    for item in ids.split():
        next_, log_time, size = item.split(b"-")
        end = at + int(size)
        yield Entry(int(next_), int(log_time), frames[at:end])
        at = end


def check_not_lost(position: Position, gaps: Sequence[Gap]) -> None:
    """Raises LogDiverged for a position that saw records which the server lost."""
    for gap in gaps:
        if gap.kind == LOST and gap.start < position.offset < gap.end:
            raise LogDiverged(
                f"the server came back without the records from offset {gap.start} on, and the position has seen some "
                "of them: rebuild from a snapshot or from the earliest offset (appendfsync always loses nothing)",
                topic=position.topic,
                partition=position.partition,
                offset=position.offset,
            )


def opened(entry: Entry, context: bytes) -> Columns:
    """The records of an entry; raises MalformedRecord."""
    return decode_records(unseal(entry.frame, context))


def passed(offset: int, base: int, gaps: Sequence[Gap]) -> int:
    """Where a reader at ``offset`` is once it passed the gaps that lead towards ``base``."""
    for gap in gaps:
        if gap.start <= offset < gap.end <= base:
            offset = gap.end
    return offset


def build(position: Position, page: Page, context: bytes, limit: int | None) -> Batch:
    """The batch; a damage behind sound records is left for the next read.  Raises LogDiverged, LogCorrupt."""
    topic, incarnation, partition, offset = position
    check_not_lost(position, page.gaps)
    builder = BatchBuilder()
    try:
        for entry in page.entries:
            columns = opened(entry, context)
            base = entry.next - len(columns.keys)
            here = passed(offset, base, page.gaps) if base > offset else offset
            if here < base or (builder.count and base < here):
                raise MalformedRecord(f"the records from {here} to {base} are missing")
            skip = here - base
            if skip:
                columns = slice_columns(columns, skip, len(columns.keys))
            builder.add(columns, range(here, entry.next), entry.log_time_ms)
            offset = entry.next
        offset = passed(offset, page.end, page.gaps)
        if not page.entries and offset < page.end:
            raise MalformedRecord(f"the records from {offset} to {page.end} are missing")
    except MalformedRecord as error:
        if not builder.count:
            raise LogCorrupt(
                f"{error}; run 'dynlog log verify', then 'dynlog log repair'",
                topic=topic,
                partition=partition,
                offset=offset,
            ) from None
    if not builder.count:
        return Batch(topic, incarnation, partition, array("q"), array("q"), NO_COLUMNS, offset, page.end)
    batch = builder.build(topic, incarnation, partition, offset, page.end)
    return batch if limit is None else batch.slice(0, limit)
