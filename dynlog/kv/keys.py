"""The keys of a bucket in their order, kept so that a change costs nothing until somebody asks for a range."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

FEW = 32
"""So many changes are put in their place one by one; more, and everything is sorted anew (which is linear)."""


class KeyOrder:
    """A sorted set of text."""

    __slots__ = ("_added", "_keys", "_removed")

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys: list[str] = []
        self._added: set[str] = set(keys)
        self._removed: set[str] = set()

    def add(self, key: str) -> None:
        """Takes a key that is not in."""
        if key in self._removed:
            self._removed.remove(key)
        else:
            self._added.add(key)

    def add_all(self, keys: Iterable[str]) -> None:
        """Takes many, none of which is or was in."""
        self._added.update(keys)

    def discard(self, key: str) -> None:
        """Drops a key that is in."""
        if key in self._added:
            self._added.remove(key)
        else:
            self._removed.add(key)

    def between(self, after: str, upto: str = "", limit: int | None = None) -> Sequence[str]:
        """The keys above ``after`` and up to ``upto`` ("" is without end), in order, the first ``limit`` of them."""
        keys = self._settle()
        start, end = bisect_right(keys, after), bisect_right(keys, upto) if upto else len(keys)
        return keys[start : end if limit is None else min(end, start + limit)]

    def under(self, prefix: str) -> Sequence[str]:
        """The keys that begin so, in order."""
        keys = self._settle()
        start = bisect_left(keys, prefix)
        return keys[start : bisect_left(keys, True, lo=start, key=lambda key: not key.startswith(prefix))]

    def _settle(self) -> list[str]:
        if len(self._added) + len(self._removed) > FEW:
            kept = [key for key in self._keys if key not in self._removed] if self._removed else self._keys
            kept.extend(sorted(self._added))
            kept.sort()
            self._keys = kept
        else:
            for key in self._removed:
                del self._keys[bisect_left(self._keys, key)]
            for key in self._added:
                insort(self._keys, key)
        self._added.clear()
        self._removed.clear()
        return self._keys
