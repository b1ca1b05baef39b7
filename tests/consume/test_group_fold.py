"""The group's fold: one owner per partition, expiry only of the silent, fencing before a takeover, and the law."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynlog.batch import StoredRecord
from dynlog.group import GroupFold
from dynlog.group_records import Beat, Expire, Fact, Generation, Join, Leave, Picture, Release, to_record
from dynlog.group_topic import fold
from dynlog.record import Record

NAMES = st.sampled_from(["a", "b", "c", "d"])
FACTS: st.SearchStrategy[Any] = st.one_of(
    st.builds(Join, NAMES, st.just(5), st.just("here")),
    st.builds(Beat, NAMES),
    st.builds(Leave, NAMES),
    st.builds(Release, NAMES, st.integers(0, 6)),
    st.builds(Expire, NAMES, st.integers(0, 40)),
    st.builds(Generation, st.integers(0, 9), st.integers(0, 40), st.booleans()),
    st.just(None),
)


def lying(facts: list[Fact | None], first: int = 0) -> list[StoredRecord]:
    """Those facts as records from that offset on; None is a record that says nothing."""
    records = [Record(parts=(b"\xc1noise",)) if fact is None else to_record(fact) for fact in facts]
    return [StoredRecord(0, first + n, 0, item) for n, item in enumerate(records)]


def folded(*facts: Fact | None) -> GroupFold:
    state = GroupFold()
    for stored in lying(list(facts)):
        state.apply_one(stored)
    return state


def picture(state: GroupFold) -> bytes:
    return b"".join(state.snapshot())


@given(st.lists(FACTS, max_size=40))
def test_every_partition_has_exactly_one_owner_and_target_while_anybody_is_there(facts: list[Fact | None]) -> None:
    state = folded(*facts)
    expected = set(range(5)) if state.members else set()
    assert set(state.owners) == set(state.targets) == expected
    assert set(state.owners.values()) | set(state.targets.values()) <= set(state.members)


@given(st.lists(FACTS, max_size=40), st.integers(0, 40))
def test_restoring_a_snapshot_and_folding_the_rest_equals_folding_all(facts: list[Fact | None], cut: int) -> None:
    everything = lying(facts)
    prefix, restored = GroupFold(), GroupFold()
    for stored in everything[:cut]:
        prefix.apply_one(stored)
    restored.restore(prefix.snapshot())
    for stored in everything[cut:]:
        restored.apply_one(stored)
    assert picture(restored) == picture(folded(*facts))


@given(st.lists(FACTS, max_size=30), st.lists(FACTS, max_size=5), st.lists(FACTS, max_size=20))
def test_a_group_topic_that_begins_with_what_a_picture_left_folds_to_the_same(
    before: list[Fact | None], between: list[Fact | None], after: list[Fact | None]
) -> None:
    """Others say things between the picture's state and the picture itself."""
    covers = len(before)
    state = folded(*before)
    shown = [*before, *between, Picture(covers, picture(state)), *after]
    everything = lying(shown)
    assert picture(fold(everything[covers:])) == picture(folded(*before, *between, Picture(0, b""), *after))


def test_a_partition_stays_with_its_owner_until_that_releases_it() -> None:
    state = folded(Join("a", 2, ""), Join("b", 2, ""))
    assert state.owned_by("a") == {0, 1}
    assert sorted(state.targets.values()) == ["a", "b"]
    (leaving,) = [p for p, target in state.targets.items() if target == "b"]
    after = folded(Join("a", 2, ""), Join("b", 2, ""), Release("b", leaving), Release("a", leaving))
    assert after.owned_by("b") == {leaving}


def test_an_expiry_is_void_if_a_newer_heartbeat_is_ahead_of_it() -> None:
    assert "a" in folded(Join("a", 1, ""), Beat("a"), Expire("a", 0)).members
    assert "a" not in folded(Join("a", 1, ""), Beat("a"), Expire("a", 1)).members


def test_after_an_expiry_a_generation_is_needed_that_was_opened_by_somebody_who_knew_of_it() -> None:
    facts: list[Fact] = [Join("a", 1, ""), Join("b", 1, ""), Generation(1, 2, False), Expire("a", 0)]
    assert not folded(*facts[:3]).unfenced
    assert folded(*facts).unfenced
    assert folded(*facts, Generation(2, 3, False)).unfenced, "its author had not folded the expiry"
    assert not folded(*facts, Generation(2, 4, False)).unfenced
