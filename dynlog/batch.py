"""A batch is what one read returns: records of one partition in offset order, in columns, and where to read on.

`next_offset` is the offset to read next: it lies beyond every record of the batch and beyond every hole (compacted,
truncated or control records) that the read passed over; a read is at the end exactly if ``next_offset == end_offset``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dynlog.codec import Columns, MarkRun, mark_runs, record_at
from dynlog.record import NO_HEADERS, Mark, Record


class Position(NamedTuple):
    """Where to read: an offset of one partition of one incarnation of a topic."""

    topic: str
    incarnation: str
    partition: int
    offset: int


class StoredRecord(NamedTuple):
    """A record and where and when the log took it (``log_time_ms``: engine's clock, never decreasing)."""

    partition: int
    offset: int
    log_time_ms: int
    record: Record


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition; all columns have the same length, offsets strictly increase."""

    topic: str
    incarnation: str
    partition: int
    offsets: Sequence[int]
    log_times: Sequence[int]
    columns: Columns
    next_offset: int
    end_offset: int

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def keys(self) -> Sequence[bytes | None]:
        """Each record's key."""
        return self.columns.keys

    @property
    def bodies(self) -> Sequence[Sequence[bytes]]:
        """Each record's parts."""
        return self.columns.bodies

    @property
    def marks(self) -> Sequence[MarkRun]:
        """Producer marks, run-length; records in no run have none."""
        return self.columns.marks

    @property
    def next_position(self) -> Position:
        """Where to read on."""
        return Position(self.topic, self.incarnation, self.partition, self.next_offset)

    def __iter__(self) -> Iterator[StoredRecord]:
        marks = expand_marks(self.columns.marks, len(self))
        for index, offset in enumerate(self.offsets):
            record = record_at(self.columns, index, marks[index])
            yield StoredRecord(self.partition, offset, self.log_times[index], record)

    def slice(self, start: int, stop: int) -> Batch:
        """The records ``start:stop`` by index; ``next_offset`` points at the first one left out."""
        if start == 0 and stop >= len(self):
            return self
        return replace(
            self,
            offsets=self.offsets[start:stop],
            log_times=self.log_times[start:stop],
            columns=slice_columns(self.columns, start, stop),
            next_offset=self.offsets[stop] if stop < len(self) else self.next_offset,
        )

    def select(self, wanted: Sequence[int]) -> Batch:
        """The records at those (ascending) indices; ``next_offset`` stays."""
        columns, marks = self.columns, expand_marks(self.columns.marks, len(self))
        return replace(
            self,
            offsets=[self.offsets[i] for i in wanted],
            log_times=[self.log_times[i] for i in wanted],
            columns=Columns(
                keys=[columns.keys[i] for i in wanted],
                bodies=[columns.bodies[i] for i in wanted],
                headers=[columns.headers[i] for i in wanted] if columns.headers else None,
                controls=bytes(columns.controls[i] for i in wanted) if columns.controls else None,
                timestamps=None if columns.timestamps is None else type(columns.timestamps)(
                    "q", [columns.timestamps[i] for i in wanted]
                ),
                marks=mark_runs([marks[i] for i in wanted]),
            ),
        )  # fmt: skip


def expand_marks(runs: Sequence[MarkRun], count: int) -> list[Mark | None]:
    """One mark (or None) per record."""
    marks: list[Mark | None] = [None] * count
    for run in runs:
        for i in range(run.length):
            marks[run.start + i] = Mark(run.producer_id, run.epoch, run.sequence + i)
    return marks


def slice_columns(columns: Columns, start: int, stop: int) -> Columns:
    """The columns of the records ``start:stop``."""
    marks = []
    for run in columns.marks:
        low, high = max(run.start, start), min(run.start + run.length, stop)
        if low < high:
            skipped = low - run.start
            marks.append(MarkRun(low - start, high - low, run.producer_id, run.epoch, run.sequence + skipped))
    return Columns(
        columns.keys[start:stop],
        columns.bodies[start:stop],
        columns.headers[start:stop] if columns.headers else None,
        columns.controls[start:stop] if columns.controls else None,
        columns.timestamps[start:stop] if columns.timestamps else None,
        marks,
    )


class BatchBuilder:
    """Joins stored segments into one `Batch`; engines feed it row by row."""

    def __init__(self) -> None:
        self._segments: list[tuple[Columns, Sequence[int], int]] = []
        self.count = 0

    def add(self, columns: Columns, offsets: Sequence[int], log_time_ms: int) -> None:
        """A segment whose records lie at ``offsets`` and were taken at ``log_time_ms``."""
        self._segments.append((columns, offsets, log_time_ms))
        self.count += len(offsets)

    def build(self, topic: str, incarnation: str, partition: int, next_offset: int, end_offset: int) -> Batch:
        """The batch of all segments in the order in which they were added."""
        if len(self._segments) == 1:
            columns, offsets, log_time = self._segments[0]
            times: Sequence[int] = [log_time] * len(offsets)
        else:
            columns, offsets, times = self._join()
        return Batch(topic, incarnation, partition, offsets, times, columns, next_offset, end_offset)

    def _join(self) -> tuple[Columns, Sequence[int], Sequence[int]]:
        keys: list[bytes | None] = []
        bodies: list[list[bytes]] = []
        marks: list[MarkRun] = []
        offsets: list[int] = []
        times: list[int] = []
        segments = [columns for columns, _, _ in self._segments]
        headers: list[Mapping[str, bytes]] | None = [] if any(c.headers for c in segments) else None
        controls = bytearray() if any(c.controls for c in segments) else None
        timestamps = next((c.timestamps[:0] for c in segments if c.timestamps is not None), None)
        for columns, where, log_time in self._segments:
            at, count = len(keys), len(where)
            keys += columns.keys
            bodies += columns.bodies
            offsets += where
            times += [log_time] * count
            if headers is not None:
                headers += columns.headers or [NO_HEADERS] * count
            if controls is not None:
                controls += columns.controls or bytes(count)
            if timestamps is not None:
                timestamps.extend(columns.timestamps or [0] * count)
            marks += [run._replace(start=run.start + at) for run in columns.marks]
        joined = Columns(keys, bodies, headers, bytes(controls) if controls is not None else None, timestamps, marks)
        return joined, offsets, times
