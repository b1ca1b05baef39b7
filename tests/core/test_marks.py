"""The rule of marks: what one producer's next record in one partition may be, told without any engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynlog.codec import MarkRun
from dynlog.marks import REMEMBERED_RUNS, UNKNOWN_OFFSET, MarkState, Verdict


def test_the_first_seen_sequence_is_new_whatever_its_number() -> None:
    assert MarkState(1).judge(1, 1 << 40) is Verdict.NEW
    assert MarkState(1).judge(1, 0) is Verdict.NEW


def test_a_sequence_at_or_below_the_last_is_a_repeat_and_above_it_new() -> None:
    state = MarkState(2)
    state.accept(2, 10, 3, 100, 0)
    assert [state.judge(2, n) for n in (0, 9, 10, 12)] == [Verdict.REPEAT] * 4
    assert [state.judge(2, n) for n in (13, 99)] == [Verdict.NEW] * 2


def test_a_lower_epoch_is_fenced_and_a_higher_one_starts_a_new_count() -> None:
    state = MarkState(2)
    state.accept(2, 10, 3, 100, 0)
    assert state.judge(1, 13) is state.judge(1, 0) is Verdict.FENCED
    assert state.judge(3, 0) is Verdict.NEW
    state.accept(3, 0, 1, 103, 0)
    assert (state.epoch, state.last) == (3, 0)
    assert state.judge(2, 13) is Verdict.FENCED
    assert state.first_offset(10) == UNKNOWN_OFFSET, "an offset of the older epoch answers for the newer one"


@given(st.integers(0, 30), st.integers(0, 40), st.integers(1, 20))
def test_the_head_of_a_run_up_to_the_last_sequence_is_repeats(last: int, sequence: int, length: int) -> None:
    state = MarkState(1)
    state.accept(1, 0, last + 1, 0, 0)
    repeats = state.new_part(MarkRun(0, length, "p", 1, sequence))
    verdicts = [state.judge(1, sequence + i) for i in range(length)]
    assert verdicts == [Verdict.REPEAT] * repeats + [Verdict.NEW] * (length - repeats)
    assert state.new_part(MarkRun(0, length, "p", 2, sequence)) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 2)), min_size=1, max_size=40))
def test_a_repeat_is_told_its_first_offset_while_it_is_remembered(steps: list[tuple[int, int, int]]) -> None:
    """Each step skips sequences, adds a run, and leaves others' offsets between."""
    state, truth, sequence, offset = MarkState(1), dict[int, int](), 0, 0
    for skipped, length, others in steps:
        sequence, offset = sequence + skipped, offset + others
        state.accept(1, sequence, length, offset, 0)
        truth.update((sequence + i, offset + i) for i in range(length))
        sequence, offset = sequence + length, offset + length
    assert len(state.stretches) <= REMEMBERED_RUNS
    for number in range(sequence):
        assert state.first_offset(number) in (truth.get(number, UNKNOWN_OFFSET), UNKNOWN_OFFSET)
    assert state.first_offset(sequence - 1) == offset - 1
    assert state.first_offset(sequence) == UNKNOWN_OFFSET


def test_neighbouring_runs_are_remembered_as_one() -> None:
    state = MarkState(1)
    for number in range(1000):
        state.accept(1, number, 1, 50 + number, 0)
    assert state.first_offset(0) == 50
    assert state.first_offset(999) == 1049


def test_the_time_last_seen_does_not_go_back() -> None:
    state = MarkState(1)
    state.accept(1, 0, 1, 0, 500)
    state.accept(1, 1, 1, 1, 400)
    assert state.seen_ms == 500
