"""How many bytes lie between two offsets: Kafka does not say, so it is known for what passed by and estimated else.

Every append and read of this handle adds the batches that it saw; a stretch that nobody saw counts with the average of
what was seen.  Good for holders' bounds of lag and for retention by size; both say "about".
"""

from __future__ import annotations

from bisect import bisect_right, insort

from dynlog.storage.kafka.fetches import Run
from dynlog.storage.ledger import Segment

MOST_RUNS = 4_096
"""Beyond this, neighbouring runs are joined two by two."""


class Sizes:
    """One partition's stretches, apart and in order."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    @property
    def last(self) -> Run | None:
        """The newest batch seen."""
        return self._runs[-1] if self._runs else None

    def add(self, run: Run) -> None:
        """A batch that was seen; what is known already is not counted again."""
        if run.next <= run.base:
            return
        at = bisect_right(self._runs, run.base, key=lambda known: known.base)
        if at and self._runs[at - 1].next > run.base:
            return
        if at < len(self._runs) and self._runs[at].base < run.next:
            return
        insort(self._runs, run)
        if len(self._runs) > MOST_RUNS:
            self._join()

    def _join(self) -> None:
        joined: list[Run] = []
        for run in self._runs:
            last = joined[-1] if joined else None
            if last is not None and last.next == run.base and len(joined) % 2 == 0:
                joined[-1] = Run(last.base, run.next, run.log_time_ms, last.size + run.size)
            else:
                joined.append(run)
        self._runs = joined[-MOST_RUNS // 2 :] if len(joined) > MOST_RUNS else joined

    def truncate(self, before: int) -> None:
        """Forgets what lies below."""
        while self._runs and self._runs[0].next <= before:
            self._runs.pop(0)

    def between(self, start: int, end: int) -> int:
        """About how many bytes lie there."""
        return sum(segment.size for segment in self.segments(start, end))

    def segments(self, start: int, end: int) -> list[Segment]:
        """The stretch in order, as far as it was seen batch by batch, with estimates in between."""
        found: list[Segment] = []
        at = start
        for run in self._runs:
            if run.next <= at or run.base >= end:
                continue
            if run.base > at:
                found += self._guess(at, run.base, run.log_time_ms)
            low, high = max(run.base, at), min(run.next, end)
            size = run.size * (high - low) // (run.next - run.base)
            found.append(Segment(low, high, run.log_time_ms, size))
            at = high
        if at < end:
            last = self._runs[-1].log_time_ms if self._runs else 0
            found += self._guess(at, end, last)
        return found

    def _guess(self, start: int, end: int, log_time_ms: int) -> list[Segment]:
        records = sum(run.next - run.base for run in self._runs)
        density = sum(run.size for run in self._runs) / records if records else 0.0
        step = max((end - start) // 64, 1)
        return [
            Segment(low, min(low + step, end), log_time_ms, round(density * (min(low + step, end) - low)))
            for low in range(start, end, step)
        ]
