"""The keys of a bucket in their order: a sorted set in leaves of about a thousand, so that nothing ever takes long.

A picture of it shares the leaves; a leaf that is shared is copied before it changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence

LEAF = 1024


class _Leaf:
    __slots__ = ("keys", "shared")

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.shared = False

    def own(self) -> list[str]:
        """The keys, to be changed."""
        if self.shared:
            self.keys, self.shared = self.keys.copy(), False
        return self.keys


class KeyOrder:
    """A sorted set of text."""

    __slots__ = ("_lasts", "_leaves")

    def __init__(self) -> None:
        self._leaves: list[_Leaf] = []  # none is empty
        self._lasts: list[str] = []  # the last key of each

    def add(self, key: str) -> None:
        """Takes a key that is not in."""
        if not self._lasts:
            self._leaves, self._lasts = [_Leaf([key])], [key]
            return
        at = min(bisect_left(self._lasts, key), len(self._lasts) - 1)
        keys = self._leaves[at].own()
        insort(keys, key)
        self._lasts[at] = keys[-1]
        if len(keys) > 2 * LEAF:
            # In the middle, except at the end: who adds in order is to leave full leaves.
            half = LEAF if at < len(self._lasts) - 1 else 2 * LEAF
            self._leaves.insert(at + 1, _Leaf(keys[half:]))
            del keys[half:]
            self._lasts.insert(at, keys[-1])

    def add_all(self, keys: Iterable[str]) -> None:
        """Takes many that are not in; fast if they lie behind all that are, in order or not."""
        found = sorted(keys)
        if found and (not self._lasts or found[0] > self._lasts[-1]):
            for start in range(0, len(found), LEAF):
                piece = found[start : start + LEAF]
                self._leaves.append(_Leaf(piece))
                self._lasts.append(piece[-1])
        else:
            for key in found:
                self.add(key)

    def discard(self, key: str) -> None:
        """Drops a key that is in."""
        at = bisect_left(self._lasts, key)
        keys = self._leaves[at].own()
        del keys[bisect_left(keys, key)]
        if keys:
            self._lasts[at] = keys[-1]
        else:
            del self._leaves[at], self._lasts[at]

    def between(self, after: str, upto: str = "", limit: int | None = None) -> list[str]:
        """The keys above ``after`` and up to ``upto`` ("" is without end), in order, the first ``limit`` of them."""
        found: list[str] = []
        for at in range(bisect_right(self._lasts, after), len(self._leaves)):
            keys = self._leaves[at].keys
            start = bisect_right(keys, after)
            end = bisect_right(keys, upto) if upto else len(keys)
            found += keys[start:end] if start or end < len(keys) else keys
            if end < len(keys) or (limit is not None and len(found) >= limit):
                break
        return found if limit is None else found[:limit]

    def under(self, prefix: str) -> Iterator[str]:
        """The keys that begin so, in order."""
        for leaf, start, end in self._runs_under(prefix):
            yield from leaf.keys[start:end]

    def pieces_under(self, prefix: str) -> Sequence[Sequence[str]]:
        """As `under`, in pieces that stay as they are now; costs a step per leaf, not per key."""
        pieces: list[Sequence[str]] = []
        for leaf, start, end in self._runs_under(prefix):
            if start or end < len(leaf.keys):
                pieces.append(leaf.keys[start:end])
            else:
                leaf.shared = True
                pieces.append(leaf.keys)
        return pieces

    def _runs_under(self, prefix: str) -> Iterator[tuple[_Leaf, int, int]]:
        """The leaves in which keys that begin so may be, in order, and from where to where they are."""
        for at in range(bisect_left(self._lasts, prefix), len(self._leaves)):
            leaf = self._leaves[at]
            keys = leaf.keys
            start = bisect_left(keys, prefix)
            end = bisect_left(keys, True, lo=start, key=lambda key: not key.startswith(prefix))
            yield leaf, start, end
            if end < len(keys):
                return

    def picture(self) -> Sequence[Sequence[str]]:
        """All keys, in order, in pieces; they stay as they are now."""
        for leaf in self._leaves:
            leaf.shared = True
        return [leaf.keys for leaf in self._leaves]
