"""Batches: cutting, picking and joining never lose, repeat or mix up a record or its mark."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynlog.batch import Batch, BatchBuilder, StoredRecord
from dynlog.codec import decode_records, encode_records, mark_runs
from dynlog.record import Record
from tests.core.records import LISTS, batch_of

APPENDS = st.lists(LISTS, min_size=1, max_size=3)
BATCHES = st.builds(batch_of, APPENDS, st.integers(0, 2))


@given(APPENDS, st.integers(0, 2))
def test_joined_segments_read_as_their_records_in_order(appends: list[list[Record]], hole: int) -> None:
    batch = batch_of(appends, hole)
    flat = [(number, record) for number, records in enumerate(appends) for record in records]
    assert len(batch) == len(flat)
    assert [item.record for item in batch] == [record for _, record in flat]
    assert [item.log_time_ms for item in batch] == [1000 + number for number, _ in flat]
    assert list(batch.offsets) == sorted(set(batch.offsets))


@given(BATCHES, st.integers(0, 20), st.integers(0, 20))
def test_a_slice_holds_those_records_and_points_at_the_first_left_out(batch: Batch, one: int, other: int) -> None:
    start, stop = sorted((min(one, len(batch)), min(other, len(batch))))
    part = batch.slice(start, stop)
    assert list(part) == list(batch)[start:stop]
    assert part.next_offset == (batch.offsets[stop] if stop < len(batch) else batch.next_offset)
    assert part.end_offset == batch.end_offset


@given(BATCHES, st.integers(0, 20))
def test_two_slices_at_any_cut_make_the_whole(batch: Batch, cut: int) -> None:
    head, tail = batch.slice(0, min(cut, len(batch))), batch.slice(min(cut, len(batch)), len(batch))
    assert list(head) + list(tail) == list(batch)
    if len(tail):
        assert head.next_offset == tail.offsets[0]


@given(BATCHES, st.data())
def test_a_selection_holds_the_chosen_records_and_leads_on_to_the_same_offset(
    batch: Batch, data: st.DataObject
) -> None:
    chosen = [index for index in range(len(batch)) if data.draw(st.booleans())]
    part = batch.select(chosen)
    whole = list(batch)
    assert list(part) == [whole[index] for index in chosen]
    assert (part.next_offset, part.end_offset) == (batch.next_offset, batch.end_offset)


@given(BATCHES, st.data())
def test_a_slice_of_a_selection_still_has_the_marks_of_its_records(batch: Batch, data: st.DataObject) -> None:
    part = batch.select([index for index in range(len(batch)) if data.draw(st.booleans())])
    cut = data.draw(st.integers(0, len(part)))
    assert list(part.slice(cut, len(part))) == list(part)[cut:]


def test_an_empty_batch_knows_where_to_read_on() -> None:
    batch = BatchBuilder().build("t", "inc", 2, 9, 9)
    assert (len(batch), list(batch), batch.next_position) == (0, [], ("t", "inc", 2, 9))


def test_columns_used_by_one_segment_are_filled_up_for_the_others() -> None:
    plain, full = Record(parts=(b"a",)), Record(headers={"h": b"v"}, timestamp_ms=7, key=b"k")
    batch = batch_of([[plain], [full], [plain]])
    assert [item.record for item in batch] == [plain, full, plain]


def test_the_columns_of_a_batch_are_there_without_making_records() -> None:
    records = [Record(parts=(b"a", b"b"), key=b"k"), Record()]
    builder = BatchBuilder()
    builder.add(decode_records(encode_records(records)), range(5, 7), 99)
    batch = builder.build("t", "inc", 0, 7, 7)
    assert (batch.keys, batch.bodies, batch.marks) == ([b"k", None], [[b"a", b"b"], []], mark_runs([None, None]))
    assert list(batch) == [StoredRecord(0, 5, 99, records[0]), StoredRecord(0, 6, 99, records[1])]
