"""Which edges of a hierarchy are taken: all, unless they close a circle; of those that do the youngest is not.

Nothing but the edges that are there, and when each began, decides which: not when or in what order somebody came to
see them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from dynlog.entity import DynamoEntityID

REMEMBERED_EDGES = 65_536


class Since(NamedTuple):
    """Where and when in the log an edge began."""

    offset: int
    time_ms: int = 0


class _Past(NamedTuple):
    """An edge that is no longer: it was there from ``since`` on, and at ``until`` no more."""

    parent: DynamoEntityID
    since: int
    until: int


_Edges = dict[DynamoEntityID, dict[DynamoEntityID, Since]]
_NONE: Mapping[DynamoEntityID, Since] = {}
_NOBODY: Mapping[DynamoEntityID, None] = {}
_ALWAYS = Since(-1)


class Edges:
    """Who belongs to whom as of one offset."""

    def __init__(self) -> None:
        self.broken: dict[DynamoEntityID, DynamoEntityID] = {}
        """Entities with an edge that was not taken, and to whom."""
        self._said: _Edges = {}
        self._parents: _Edges = {}
        self._children: dict[DynamoEntityID, dict[DynamoEntityID, None]] = {}
        self._past: dict[DynamoEntityID, deque[_Past]] = {}
        self._past_order: deque[DynamoEntityID] = deque()
        self._past_until = -1
        self._above: dict[DynamoEntityID, dict[DynamoEntityID, Since]] = {}
        """What was asked since the last change."""

    def said(self, entity: DynamoEntityID) -> Mapping[DynamoEntityID, Since]:
        """The edges to its parents, as it said them."""
        return self._said.get(entity, _NONE)

    def parents(self, entity: DynamoEntityID) -> Mapping[DynamoEntityID, Since]:
        """Those of them that are taken."""
        return self._parents.get(entity, _NONE)

    def children(self, entity: DynamoEntityID) -> Mapping[DynamoEntityID, None]:
        """Those that belong to it directly."""
        return self._children.get(entity, _NOBODY)

    def collections(self) -> Iterable[DynamoEntityID]:
        """All that have children."""
        return self._children

    def say(self, entity: DynamoEntityID, edges: dict[DynamoEntityID, Since], offset: int) -> None:
        """Takes what the entity says of its parents in the place of what it said before."""
        before = self._said.get(entity, _NONE)
        if edges == before:
            return
        if edges:
            self._said[entity] = edges
        else:
            self._said.pop(entity, None)
        if self.broken:
            self._take_all(offset)
            return
        for parent, since in before.items():
            if edges.get(parent) != since:
                self._drop(entity, parent, offset)
        for parent, since in edges.items():
            if before.get(parent) != since and not self._take(entity, parent, since):
                self._take_all(offset)  # which of the circle is the youngest?
                return

    def below(self, entity: DynamoEntityID) -> Iterator[DynamoEntityID]:
        """All that belong to it, directly or not, each once, not itself."""
        seen = {entity}
        queue = [entity]
        while queue:
            for child in self._children.get(queue.pop(), ()):
                if child not in seen:
                    seen.add(child)
                    queue.append(child)
                    yield child

    def above(self, entity: DynamoEntityID) -> Mapping[DynamoEntityID, Since]:
        """All that it belongs to, directly or not, not itself, and since when."""
        found = self._above.get(entity)
        if found is None:
            found = self._above[entity] = self._climb(entity)
        return found

    def was_below(self, entity: DynamoEntityID, other: DynamoEntityID, offset: int) -> bool:
        """Whether it was the other, or belonged to it, at that offset; the last 65,536 edges that ended count."""
        if entity == other:
            return True
        since = self.above(entity).get(other)
        if since is not None and since.offset <= offset:
            return True
        return offset < self._past_until and self._was_below(entity, other, offset)

    def _take(self, entity: DynamoEntityID, parent: DynamoEntityID, since: Since) -> bool:
        """Whether the edge closes no circle; it is there then."""
        if parent == entity or entity in self.above(parent):
            return False
        self._parents.setdefault(entity, {})[parent] = since
        self._children.setdefault(parent, {})[entity] = None
        self._forget_above(entity)
        return True

    def _take_all(self, offset: int) -> None:
        """All edges anew, the oldest first: rare, since whoever sees a circle coming does not close it."""
        self.broken.clear()
        before, self._parents, self._children = self._parents, {}, {}
        self._above.clear()
        edges = [(since, child, parent) for child, said in self._said.items() for parent, since in said.items()]
        for since, child, parent in sorted(edges):
            if not self._take(child, parent, since):
                self.broken[child] = parent
        for child, parents in before.items():
            for parent, since in parents.items():
                if parent not in self._parents.get(child, _NONE):
                    self._remember(child, _Past(parent, since.offset, offset))

    def _drop(self, entity: DynamoEntityID, parent: DynamoEntityID, offset: int) -> None:
        since = self._parents[entity].pop(parent)
        if not self._parents[entity]:
            del self._parents[entity]
        del self._children[parent][entity]
        if not self._children[parent]:
            del self._children[parent]
        self._forget_above(entity)
        self._remember(entity, _Past(parent, since.offset, offset))

    def _remember(self, entity: DynamoEntityID, past: _Past) -> None:
        self._past.setdefault(entity, deque()).append(past)
        self._past_order.append(entity)
        self._past_until = max(self._past_until, past.until)
        if len(self._past_order) > REMEMBERED_EDGES:
            oldest = self._past_order.popleft()
            self._past[oldest].popleft()
            if not self._past[oldest]:
                del self._past[oldest]

    def _forget_above(self, entity: DynamoEntityID) -> None:
        """What is above the entity, and so above all below it, has changed."""
        if entity in self._children:
            self._above.clear()
        else:
            self._above.pop(entity, None)

    def _climb(self, entity: DynamoEntityID) -> dict[DynamoEntityID, Since]:
        """What is above, each since the youngest edge of the way to it; of several ways the oldest counts."""
        found: dict[DynamoEntityID, Since] = {}
        queue = [(_ALWAYS, entity)]
        while queue:
            since, at = heappop(queue)
            if at in found:
                continue
            found[at] = since
            for parent, edge in self._parents.get(at, _NONE).items():
                if parent not in found:
                    heappush(queue, (max(since, edge), parent))
        del found[entity]
        return found

    def _was_below(self, entity: DynamoEntityID, other: DynamoEntityID, offset: int) -> bool:
        seen = {entity}
        queue = [entity]
        while queue:
            child = queue.pop()
            if child == other:
                return True
            parents = [p for p, since in self._parents.get(child, _NONE).items() if since.offset <= offset]
            parents += [past.parent for past in self._past.get(child, ()) if past.since <= offset < past.until]
            for parent in parents:
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
        return False
