"""The oracle over the checker: tries every order of every choice, with every revision that could have been given.

Only for a handful of operations.  It shares no rule with `model`: revisions are numbers from the start, not unknowns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product

from tests.kv.linearizability.history import Kind, Operation, Outcome


def linearizable(history: Sequence[Operation]) -> bool:
    """Whether some order explains the history of one key."""
    told = [o.revision for o in history if o.revision is not None] + [o.expected for o in history if o.expected]
    revisions = range(max(told, default=0) + len(history) + 2)
    return any(
        _explains(order, dict(zip(unnamed, given, strict=True)))
        for order in _orders(history)
        for unnamed in [[i for i, o in enumerate(order) if _writes(o) and o.revision is None]]
        for given in product(revisions, repeat=len(unnamed))
    )


def _orders(history: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """Every order that real time allows, with and without each operation of unknown outcome."""
    certain = [o for o in history if o.returned is not None]
    unknown = [o for o in history if o.returned is None]
    for count in range(len(unknown) + 1):
        for chosen in combinations(unknown, count):
            for order in permutations([*certain, *chosen]):
                if not any(
                    later.returned is not None and later.returned < earlier.invoked
                    for place, earlier in enumerate(order)
                    for later in order[place + 1 :]
                ):
                    yield order


def _writes(operation: Operation) -> bool:
    return operation.kind is not Kind.GET and operation.outcome in (Outcome.OK, Outcome.UNKNOWN)


def _explains(order: Sequence[Operation], given: dict[int, int]) -> bool:
    value: str | None = None
    revision, last = -1, -1
    for place, operation in enumerate(order):
        there = value is not None
        hits = there and (operation.expected is None or operation.expected == revision)
        wins = {Kind.PUT: True, Kind.CREATE: not there, Kind.UPDATE: hits, Kind.DELETE: hits}.get(operation.kind)
        if _writes(operation):
            own = given[place] if operation.revision is None else operation.revision
            if not wins or own <= last:
                return False
            last = revision = own
            value = None if operation.kind is Kind.DELETE else operation.value
        elif operation.outcome is Outcome.OK:
            if value != operation.value or not there or operation.revision not in (None, revision):
                return False
        elif operation.outcome is Outcome.ABSENT:
            if there:
                return False
        elif wins:  # it was told that it lost
            return False
    return True
