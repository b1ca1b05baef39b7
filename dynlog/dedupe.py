"""The reader's dedupe table: where an engine cannot check marks inside the append, the reader decides, by log order.

A record is passed on once; a repeat and a zombie's record (a lower epoch than one seen before it in the log) never
are.  The table is a projection: it is part of every snapshot of the state that was built through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgpack

from dynlog.batch import Batch
from dynlog.errors import SnapshotCorrupt
from dynlog.marks import EXPIRY_MS, MarkState, Verdict

PIECE = 2000
"""Entries in one part of the snapshot: about a millisecond of work."""
SWEEP_MS = 60_000


class DedupeTable:
    """Which marks were seen, per (producer, partition); a `Projection`."""

    schema = "dedupe/1"

    def __init__(self) -> None:
        self._states: dict[tuple[str, int], MarkState] = {}
        self._swept_ms = 0
        self.repeats = 0
        self.fenced = 0

    def __len__(self) -> int:
        return len(self._states)

    def apply(self, batch: Batch) -> None:
        """Takes note of the marks."""
        self.filter(batch)

    def filter(self, batch: Batch) -> Batch:
        """The batch without repeats and zombies' records; takes note of the rest.  ``next_offset`` stays."""
        if not batch.marks:
            return batch
        dropped: set[int] = set()
        for run in batch.marks:
            for index in range(run.start, run.start + run.length):
                if not self._accept(batch, index, run.producer_id, run.epoch, run.sequence + index - run.start):
                    dropped.add(index)
        self._sweep(batch.log_times[-1])
        if not dropped:
            return batch
        return batch.select([index for index in range(len(batch)) if index not in dropped])

    def _accept(self, batch: Batch, index: int, producer: str, epoch: int, sequence: int) -> bool:
        key, now = (producer, batch.partition), batch.log_times[index]
        state = self._states.get(key)
        if state is None or state.seen_ms + EXPIRY_MS < now:
            state = self._states[key] = MarkState(epoch)
        verdict = state.judge(epoch, sequence)
        if verdict is Verdict.NEW:
            state.epoch, state.last, state.seen_ms = epoch, sequence, now
            return True
        if verdict is Verdict.REPEAT:
            self.repeats += 1
        else:
            self.fenced += 1
        return False

    def _sweep(self, now: int) -> None:
        """Forgets expired entries, now and then, by log time, so that every reader forgets the same."""
        if now < self._swept_ms + SWEEP_MS:
            return
        self._swept_ms = now
        expired = [key for key, state in self._states.items() if state.seen_ms + EXPIRY_MS < now]
        for key in expired:
            del self._states[key]

    def snapshot(self) -> Iterator[bytes]:
        """The table at the moment of the call."""
        rows = [(*key, state.epoch, state.last, state.seen_ms) for key, state in sorted(self._states.items())]
        head = msgpack.packb([self.schema, len(rows), self._swept_ms, self.repeats, self.fenced])
        return self._parts(head, rows)

    @staticmethod
    def _parts(head: bytes, rows: list[tuple[str, int, int, int, int]]) -> Iterator[bytes]:
        yield head
        for start in range(0, len(rows), PIECE):
            yield msgpack.packb(rows[start : start + PIECE])

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replaces the table; raises SnapshotCorrupt and leaves it empty otherwise."""
        self._states.clear()
        states: dict[tuple[str, int], MarkState] = {}
        try:
            pieces = iter(parts)
            schema, count, swept, repeats, fenced = msgpack.unpackb(next(pieces))
            if schema != self.schema:
                raise SnapshotCorrupt(f"a dedupe table of schema {schema!r}, this dynlog reads {self.schema!r}")
            for piece in pieces:
                for producer, partition, epoch, last, seen in msgpack.unpackb(piece):
                    states[producer, partition] = MarkState(epoch, last, seen)
        except (ValueError, TypeError, StopIteration, msgpack.UnpackException) as error:
            raise SnapshotCorrupt(f"not a dedupe table: {error!r}") from None
        if len(states) != count:
            raise SnapshotCorrupt(f"a dedupe table of {len(states)} entries instead of {count}")
        self._states, self._swept_ms, self.repeats, self.fenced = states, swept, repeats, fenced
