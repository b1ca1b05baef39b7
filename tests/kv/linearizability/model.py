"""What one key may answer when operations happen one after the other: the whole meaning of the store, without a store.

Revisions only rise.  One that nobody was told (of a write whose outcome is unknown) is learned when somebody reads it;
until then the state keeps what it cannot be.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.kv.linearizability.history import Kind, Operation, Outcome


class State(NamedTuple):
    """One key at one moment."""

    value: str | None = None
    """None: the key is not there."""
    revision: int | None = None
    """None with a value: not known yet, but above ``floor`` and none of ``excluded``."""
    floor: int = -1
    """Every revision so far is at most this, but for the present one while it is not known."""
    excluded: frozenset[int] = frozenset()


ABSENT = State()


def step(state: State, operation: Operation) -> State | None:
    """The state after the operation with just this outcome, or None if it cannot end so here.

    For a write of unknown outcome: the state after it took effect; that it never does is the checker's to consider.
    """
    match operation.kind, operation.outcome:
        case Kind.GET, Outcome.OK:
            return _read(state, operation)
        case (Kind.GET, Outcome.ABSENT) | (Kind.DELETE, Outcome.ABSENT):
            return state if state.value is None else None
        case Kind.PUT, Outcome.OK | Outcome.UNKNOWN:
            return _write(state, operation)
        case Kind.CREATE, Outcome.OK | Outcome.UNKNOWN:
            return _write(state, operation) if state.value is None else None
        case Kind.CREATE, Outcome.EXISTS:
            return state if state.value is not None else None
        case Kind.UPDATE, Outcome.OK | Outcome.UNKNOWN:
            known = _known_as(state, operation.expected)
            return None if known is None else _write(known, operation)
        case Kind.DELETE, Outcome.OK | Outcome.UNKNOWN:
            known = state if operation.expected is None else _known_as(state, operation.expected)
            if known is None or known.value is None:
                return None
            return _write(known, operation)
        case ((Kind.UPDATE | Kind.DELETE), Outcome.CONFLICT):
            return _not(state, operation.expected)
    raise ValueError(f"no such outcome: {operation}")


def _read(state: State, read: Operation) -> State | None:
    if state.value != read.value or read.value is None:
        return None
    return _known_as(state, read.revision) if read.revision is not None else state


def _write(state: State, write: Operation) -> State | None:
    """After a write or delete of the given or of an unknown revision, above all before it."""
    floor = _least(state) if state.value is not None else state.floor
    value = None if write.kind is Kind.DELETE else write.value
    if write.revision is None:
        # An unknown revision takes a place all the same; a deletion's is never read, so it is at least the next one.
        return State(None, None, floor + 1) if value is None else State(value, None, floor)
    if write.revision <= floor:
        return None
    return State(value, None if value is None else write.revision, write.revision)


def _known_as(state: State, revision: int | None) -> State | None:
    """The state with its revision known to be this one, if it can be."""
    if state.value is None or revision is None:
        return None
    if state.revision is not None:
        return state if state.revision == revision else None
    if revision <= state.floor or revision in state.excluded:
        return None
    return State(state.value, revision, revision)


def _not(state: State, revision: int | None) -> State | None:
    """The state with its revision known not to be this one, if it can be another."""
    if state.value is None or revision is None:
        return state
    if state.revision is not None:
        return None if state.revision == revision else state
    return state if revision <= state.floor else state._replace(excluded=state.excluded | {revision})


def _least(state: State) -> int:
    """The least that the present revision can be."""
    if state.revision is not None:
        return state.revision
    least = state.floor + 1
    while least in state.excluded:
        least += 1
    return least
