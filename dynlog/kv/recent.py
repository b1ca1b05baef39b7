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
            self.floor = row[REVISION] + 1

    def since(self, revision: int) -> list[tuple[str, Row]] | None:
        """The changes behind that revision; None if some of them are forgotten."""
        if revision + 1 < self.floor:
            return None
        # Several keys may have changed at one revision, with the end of their lease.
        found = []
        for change in reversed(self._changes):
            if change[1][REVISION] <= revision:
                break
            found.append(change)
        return found[::-1]
