"""Random facts about few keys and few leases, so that they meet, and a log of them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from dynlog.kv.fold import KvFold, Outcome
from dynlog.kv.records import (
    Barrier,
    Beat,
    Create,
    Delete,
    Expire,
    Fact,
    Grant,
    Lapse,
    Pause,
    Purge,
    Put,
    Revoke,
    Update,
    to_record,
)

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "ü"])
LEASES = st.sampled_from(["l1", "l2", "l3"])
NO_LEASE_MOSTLY = st.one_of(st.just(""), st.just(""), LEASES)
TTLS = st.sampled_from([0, 0, 0, 5, 30])
VALUES = st.binary(max_size=3)
REVISIONS = st.integers(0, 60)
FACTS: st.SearchStrategy[Any] = st.one_of(
    st.builds(Put, KEYS, VALUES, NO_LEASE_MOSTLY, TTLS),
    st.builds(Create, KEYS, VALUES, NO_LEASE_MOSTLY, TTLS),
    st.builds(Update, KEYS, VALUES, REVISIONS, NO_LEASE_MOSTLY, TTLS),
    st.builds(Delete, KEYS, st.one_of(st.just(-1), REVISIONS)),
    st.builds(Purge, KEYS),
    st.builds(Lapse, KEYS, REVISIONS),
    st.builds(Grant, LEASES, st.integers(1, 100), st.sampled_from(["me", "you"])),
    st.builds(Beat, st.just("p"), st.lists(LEASES, max_size=3).map(tuple)),
    st.builds(Revoke, LEASES),
    st.builds(Expire, LEASES, REVISIONS),
    st.just(Barrier()),
    st.builds(Pause, REVISIONS),
    st.just(None),
)
Stored = tuple[int, int, bytes | None, list[bytes]]  # offset, log time, key, parts


def stored(fact: Fact | None, offset: int, time: int) -> Stored:
    """The fact as it lies in a log; None is a record that says nothing."""
    if fact is None:
        return offset, time, b"noise", [b"\xc1"]
    record = to_record(fact)
    return offset, time, record.key, [bytes(part) for part in record.parts]


def aim(fact: Fact | None, fold: KvFold) -> Fact | None:
    """Half of the numbers that a fact may name are made to fit, or few would ever win."""
    match fact:
        case Update(key, value, revision, lease, ttl) if revision % 2 and (entry := fold.get(key)):
            return Update(key, value, entry.revision, lease, ttl)
        case Delete(key, revision) if revision > 0 and revision % 2 and (entry := fold.get(key)):
            return Delete(key, entry.revision)
        case Lapse(key, revision) if revision % 2 and (entry := fold.get(key)):
            return Lapse(key, entry.revision)
        case Put(key, value, lease, ttl) if lease and fold.leases:
            return Put(key, value, lease if lease in fold.leases else min(fold.leases), ttl)
        case Create(key, value, lease, ttl) if lease and fold.leases:
            return Create(key, value, lease if lease in fold.leases else min(fold.leases), ttl)
        case Revoke(lease) if lease == "l1" and fold.leases:
            return Revoke(min(fold.leases))
        case Expire(lease, beat) if beat % 2 and lease in fold.leases:
            return Expire(lease, fold.leases[lease].beat)
        case _:
            return fact


class ListLog:
    """A partition in a list, folded as it grows; offsets have holes, log time goes on by three."""

    def __init__(self, history: int) -> None:
        self.history = history
        self.fold = KvFold(history)
        self.records: list[Stored] = []
        self.facts: list[tuple[Fact | None, int, int]] = []

    @property
    def end(self) -> int:
        return self.records[-1][0] + 1 if self.records else 0

    def append(self, fact: Fact | None, hole: int = 0) -> Outcome:
        offset = self.end + hole
        item = stored(fact, offset, 3 * len(self.records))
        self.records.append(item)
        self.facts.append((fact, item[0], item[1]))
        return self.fold.take(*item)

    def folded_from(self, start: int) -> KvFold:
        """The fold of somebody who begins there."""
        fold = KvFold(self.history, complete=start == 0)
        take(fold, [item for item in self.records if item[0] >= start])
        return fold


def take(fold: KvFold, items: Sequence[Stored]) -> None:
    """Folds them in."""
    for item in items:
        fold.take(*item)


def seen(fold: KvFold) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Everything that can be asked of a fold, in the oracle's words."""
    rows = {key: list(fold.rows_of(key)) for key in fold.known()}
    leases = {lease.id: list(lease[1:]) for lease in fold.leases.values()}
    for key, of_key in rows.items():
        entry = fold.get(key)
        assert (entry is None) == (of_key[-1][7] != 0)
    assert [key for key, _ in fold.under("")] == [key for key in sorted(rows) if rows[key][-1][7] == 0]
    for lease in leases:
        assert fold.keys_of(lease) == {key for key, of_key in rows.items() if of_key[-1][5] == lease}
    return rows, leases
