"""Decides whether a history is linearizable: whether its operations, put into one order, explain every answer.

The order must respect real time: what ended before another began comes first.  An operation of unknown outcome may come
at any place after its beginning, or never.  This is the search of Wing and Gong with Lowe's memory: a set of operations
done and the state that they led to are looked at once.  Keys are independent, so each is decided by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.kv.linearizability.history import Operation, by_key
from tests.kv.linearizability.model import ABSENT, State, step

MOST_STATES = 3_000_000


class Undecided(Exception):
    """The search was given up after `MOST_STATES`; record shorter histories, or over more keys."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Why one key's history is not linearizable: the most that any order explains, and what then cannot come next."""

    key: str
    explained: tuple[Operation, ...]
    state: State
    stuck: tuple[Operation, ...]

    def __str__(self) -> str:
        now = f"{self.state.value!r} at revision {self.state.revision}"
        return "\n".join(
            [
                f"key {self.key!r} is not linearizable: an order explains {len(self.explained)} operations, last",
                *(f"    {operation}" for operation in self.explained[-12:]),
                f"  then the key is {now}, and none of these can be next",
                *(f"    {operation}" for operation in self.stuck),
            ]
        )


def check(operations: Iterable[Operation]) -> list[Anomaly]:
    """The keys whose histories nothing explains; raises `Undecided`."""
    found = (check_key(key, history) for key, history in sorted(by_key(operations).items()))
    return [anomaly for anomaly in found if anomaly is not None]


def check_key(key: str, history: Sequence[Operation], *, start: State = ABSENT) -> Anomaly | None:
    """None if there is an order that explains the history of one key, which begins in ``start``."""
    operations = sorted(history, key=lambda operation: operation.invoked)
    required = sum(1 << i for i, operation in enumerate(operations) if operation.returned is not None)
    seen: set[tuple[int, State]] = set()
    # Each branch of the search: what is done, the state then, and the way there as linked pairs.
    branches: list[tuple[int, State, _Way]] = [(0, start, None)]
    best: tuple[int, int, State, _Way] = (-1, 0, start, None)
    while branches:
        done, state, way = branches.pop()
        if required & ~done == 0:
            return None
        explained = (done & required).bit_count()
        if explained > best[0]:
            best = (explained, done, state, way)
        # Of what may come next, what was answered first is tried first: most often that is how it was.
        for index in sorted(_next(operations, done), key=lambda i: -(operations[i].returned or 1 << 63)):
            after = step(state, operations[index])
            if after is None:
                continue
            branch = (done | 1 << index, after)
            if branch not in seen:
                if len(seen) >= MOST_STATES:
                    raise Undecided(f"key {key!r}: {len(operations)} operations, {len(seen)} states looked at")
                seen.add(branch)
                branches.append((*branch, (operations[index], way)))
    _, done, state, way = best
    return Anomaly(key, tuple(_walked(way)), state, tuple(operations[i] for i in _next(operations, done)))


_Way = tuple[Operation, "_Way"] | None


def _next(operations: Sequence[Operation], done: int) -> list[int]:
    """What may come next: whatever is not done and began before anything that is not done had ended."""
    found = []
    first_end: int | None = None
    left = ~done & ((1 << len(operations)) - 1)
    while left:
        index = (left & -left).bit_length() - 1
        left &= left - 1
        operation = operations[index]
        if first_end is not None and operation.invoked > first_end:
            break
        found.append(index)
        if operation.returned is not None and (first_end is None or operation.returned < first_end):
            first_end = operation.returned
    return found


def _walked(way: _Way) -> list[Operation]:
    found = []
    while way is not None:
        operation, way = way
        found.append(operation)
    return found[::-1]
