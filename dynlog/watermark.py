"""How far a partition is done: below the watermark every record was handled, whatever the order in which it was."""

from __future__ import annotations

from collections import deque


class Watermark:
    """The low watermark of one partition; ``begin`` is called in offset order, ``finish`` in any."""

    def __init__(self, offset: int) -> None:
        self._next = offset
        self._begun: deque[int] = deque()
        self._finished: set[int] = set()

    @property
    def position(self) -> int:
        """The offset to read next if everything began anew now."""
        return self._begun[0] if self._begun else self._next

    @property
    def open(self) -> int:
        """How many records between it and the last one begun are not finished."""
        return len(self._begun) - len(self._finished)

    @property
    def span(self) -> int:
        """How many records from it on have begun, finished or not: what this takes in memory."""
        return len(self._begun)

    def begin(self, offset: int) -> None:
        """A record is being handled."""
        self._begun.append(offset)
        self._next = offset + 1

    def passed(self, next_offset: int) -> None:
        """There is nothing (more) to handle below ``next_offset``: holes, repeats."""
        self._next = max(self._next, next_offset)

    def finish(self, offset: int) -> None:
        """A record needs no handling any more."""
        self._finished.add(offset)
        while self._begun and self._begun[0] in self._finished:
            self._finished.discard(self._begun.popleft())
