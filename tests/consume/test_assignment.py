"""Assignment: balanced, and nothing moves that need not."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dynlog.assignment import assign

MEMBERS = st.lists(st.sampled_from([f"m{n}" for n in range(8)]), unique=True, max_size=8)


@given(MEMBERS, st.integers(0, 40), st.dictionaries(st.integers(0, 45), st.sampled_from([f"m{n}" for n in range(10)])))
def test_every_partition_has_a_member_and_their_counts_differ_by_one_at_most(
    members: list[str], partitions: int, owners: dict[int, str]
) -> None:
    targets = assign(members, owners, partitions)
    assert set(targets) == (set(range(partitions)) if members else set())
    assert set(targets.values()) <= set(members)
    counts = Counter(targets.values())
    if members:
        assert max(counts.values(), default=0) - min(counts[member] for member in members) <= 1


@given(MEMBERS.filter(bool), st.integers(0, 40))
def test_nothing_moves_when_nobody_comes_or_goes(members: list[str], partitions: int) -> None:
    targets = assign(members, {}, partitions)
    assert assign(members, targets, partitions) == targets
    assert assign(list(reversed(members)), targets, partitions) == targets


@given(st.integers(2, 8), st.integers(0, 40))
def test_when_one_goes_only_its_partitions_move_and_when_one_comes_only_to_it(count: int, partitions: int) -> None:
    members = [f"m{n}" for n in range(count)]
    before = assign(members, {}, partitions)
    after = assign(members[1:], before, partitions)
    assert all(after[p] == owner for p, owner in before.items() if owner != "m0")
    grown = assign([*members, "new"], before, partitions)
    assert all(grown[p] in (owner, "new") for p, owner in before.items())
