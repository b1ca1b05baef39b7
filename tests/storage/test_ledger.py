"""The decisions that engines share: marks, holders, retention."""

from __future__ import annotations

import pytest

from dynlog.codec import MarkRun, mark_runs
from dynlog.errors import ProducerFenced
from dynlog.marks import EXPIRY_MS, MarkState
from dynlog.record import Mark
from dynlog.storage.ledger import Judgement, Segment, judge_append, next_epoch, retention_cuts, truncation_limit
from dynlog.topics import Holder, HolderKind, Retention


def judge(
    marks: list[Mark | None],
    states: dict[str, MarkState] | None = None,
    *,
    registered: dict[str, int] | None = None,
    base: int = 100,
    at: int = 0,
) -> Judgement:
    runs: list[MarkRun] = mark_runs(marks)
    return judge_append(
        len(marks), runs, states or {}, registered or {}, base=base, log_time_ms=at, topic="t", partition=0
    )


def test_repeats_are_left_out_and_told_their_first_offsets() -> None:
    first = judge([Mark("p", 1, n) for n in range(5)], base=10)
    again = judge([None, *(Mark("p", 1, n) for n in range(3, 8)), None], first.states, base=50)
    assert again.offsets == (50, 13, 14, 51, 52, 53, 54)
    assert list(again.kept) == [0, 3, 4, 5, 6]


def test_a_repeat_within_one_append_is_a_repeat() -> None:
    outcome = judge([Mark("p", 1, 7), Mark("p", 1, 7), Mark("p", 1, 8)])
    assert outcome.offsets == (100, 100, 101)
    assert list(outcome.kept) == [0, 2]


def test_one_fenced_record_refuses_the_whole_append_and_changes_no_state() -> None:
    states = judge([Mark("old", 3, 0), Mark("new", 1, 0)]).states
    with pytest.raises(ProducerFenced, match="epoch 2 but epoch 3"):
        judge([Mark("new", 1, 1), Mark("old", 2, 1)], states)
    assert states["new"].last == 0


def test_a_registered_epoch_fences_before_its_owner_wrote() -> None:
    with pytest.raises(ProducerFenced):
        judge([Mark("p", 1, 1)], registered={"p": 2})


def test_an_expired_entry_makes_the_next_record_a_baseline() -> None:
    states = judge([Mark("p", 1, 5)], at=0).states
    assert list(judge([Mark("p", 1, 5)], states, at=EXPIRY_MS).kept) == []
    assert list(judge([Mark("p", 1, 5)], states, at=EXPIRY_MS + 1).kept) == [0]


def test_an_epoch_given_out_is_above_every_one_that_was_seen() -> None:
    assert next_epoch(None, []) == 1
    assert next_epoch(2, [7, 1]) == 8


def test_truncation_stops_at_the_slowest_holder_and_names_all_that_block() -> None:
    holders = [Holder(n, HolderKind.NAMED, {0: at}) for n, at in (("a", 7), ("b", 5), ("c", 20))]
    holders.append(Holder("elsewhere", HolderKind.NAMED, {1: 0}))
    assert truncation_limit(10, 0, holders) == (5, ("a", "b"))
    assert truncation_limit(5, 0, holders) == (5, ())


def test_retention_drops_the_oldest_of_all_partitions_first() -> None:
    parts = {
        0: [Segment(0, 5, 1_000, 10), Segment(5, 9, 4_000, 10)],
        1: [Segment(0, 2, 2_000, 10), Segment(2, 3, 3_000, 10)],
    }
    assert retention_cuts(parts, Retention(max_bytes=20), total_bytes=40, now_ms=9_000) == {0: 5, 1: 2}
    assert retention_cuts(parts, Retention(max_age_s=6.0), total_bytes=40, now_ms=9_000) == {0: 5, 1: 2}
    assert retention_cuts(parts, Retention(), total_bytes=40, now_ms=9_000) == {}
