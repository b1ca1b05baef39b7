"""The last changes of a bucket, so that a watcher can go on where it stopped; bounded, and it says how far back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from dynlog.kv.rows import REVISION, VALUE, Row

MOST_CHANGES = 16_384
MOST_BYTES = 16 << 20


class Recent:
    """All changes with a revision of at least ``floor``, in order."""

    def __init__(self, most: int = MOST_CHANGES, most_bytes: int = MOST_BYTES) -> None:
        self._changes: deque[tuple[str, Row]] = deque()
        self._most, self._most_bytes = most, most_bytes
        self._bytes = 0
        self._forgotten = -1  # the newest revision of which a change is forgotten
        self.floor = 0

    def begin(self, floor: int) -> None:
        """Forgets everything; what comes from that offset on is remembered."""
        self._changes.clear()
        self._bytes, self.floor = 0, floor

    def add(self, changes: Iterable[tuple[str, Row]]) -> None:
        """Takes changes, and forgets the oldest ones if it has to."""
        kept = self._changes
        for change in changes:
            kept.append(change)
            self._bytes += len(change[1][VALUE])
        while len(kept) > self._most or self._bytes > self._most_bytes:
            _, row = kept.popleft()
            self._bytes -= len(row[VALUE])
            revision = row[REVISION]
            # What is left of several changes at one revision is not all that whoever stopped there may have missed.
            several = revision == self._forgotten or (len(kept) > 0 and kept[0][1][REVISION] == revision)
            self._forgotten, self.floor = revision, revision + 2 if several else revision + 1

    def since(self, revision: int) -> list[tuple[str, Row]] | None:
        """The changes behind that revision; None if some of them are forgotten.

        Several keys change at one revision with the end of their lease: those are given again, since whoever stopped
        at it may have seen some of them only.
        """
        if revision + 1 < self.floor:
            return None
        found: list[tuple[str, Row]] = []
        at_it: list[tuple[str, Row]] = []
        for change in reversed(self._changes):
            if change[1][REVISION] < revision:
                break
            (found if change[1][REVISION] > revision else at_it).append(change)
        return [*(at_it[::-1] if len(at_it) > 1 else ()), *found[::-1]]
