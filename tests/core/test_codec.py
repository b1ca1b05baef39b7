"""Records come back from bytes exactly as they went in, and what goes in is bounded."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlog.batch import expand_marks
from dynlog.codec import (
    MAX_HEADERS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    MAX_PARTS,
    MAX_RECORDS,
    Columns,
    MarkRun,
    decode_records,
    encode_records,
    encoded_bound,
    mark_runs,
    record_at,
)
from dynlog.errors import BatchTooLarge, MalformedRecord
from dynlog.record import Mark, Record
from tests.core.records import LISTS, MARKS, RECORDS


def records_of(columns: Columns) -> list[Record]:
    marks = expand_marks(columns.marks, len(columns.keys))
    return [record_at(columns, index, mark) for index, mark in enumerate(marks)]


@given(LISTS)
def test_decoding_gives_back_what_was_encoded(records: list[Record]) -> None:
    assert records_of(decode_records(encode_records(records))) == records


@given(LISTS)
def test_encoding_what_was_decoded_gives_the_same_bytes(records: list[Record]) -> None:
    payload = encode_records(records)
    assert encode_records(records_of(decode_records(payload))) == payload


@given(st.lists(st.none() | MARKS, max_size=20))
def test_runs_of_marks_expand_to_the_marks(marks: list[Mark | None]) -> None:
    assert expand_marks(mark_runs(marks), len(marks)) == marks


def test_marks_that_count_up_take_one_run() -> None:
    counting = [Mark("p", 1, n) for n in range(1000)]
    assert mark_runs(counting) == [MarkRun(0, 1000, "p", 1, 0)]
    assert mark_runs([*counting[:3], None, *counting[3:5]]) == [MarkRun(0, 3, "p", 1, 0), MarkRun(4, 2, "p", 1, 3)]


@given(RECORDS)
def test_the_announced_bound_of_a_record_is_never_too_small(record: Record) -> None:
    one = len(encode_records([record] * 10))
    two = len(encode_records([record] * 11))
    assert two - one <= encoded_bound(record)


def test_columns_that_no_record_uses_are_left_out() -> None:
    columns = decode_records(encode_records([Record(parts=(b"a",)), Record(key=b"k")]))
    assert (columns.headers, columns.controls, columns.timestamps, columns.marks) == (None, None, None, [])


def test_any_buffer_may_be_a_part() -> None:
    hashes = array("Q", [1, 2**64 - 1])
    record = Record(parts=(memoryview(hashes), memoryview(b"abcdef")[1:3], bytearray(b"x")))  # type: ignore[arg-type]
    assert decode_records(encode_records([record])).bodies == [[hashes.tobytes(), b"bc", b"x"]]


@pytest.mark.parametrize(
    "record",
    [
        Record(key=b"k" * MAX_KEY_BYTES),
        Record(parts=(b"",) * MAX_PARTS),
        Record(headers={f"{n}": b"" for n in range(MAX_HEADERS)}),
        Record(headers={"ü" * MAX_NAME_BYTES: b""}),
        Record(mark=Mark("ü" * MAX_NAME_BYTES, 2**63 - 1, 2**63 - 1)),
        Record(timestamp_ms=-(2**63)),
    ],
)
def test_a_record_at_a_bound_comes_back(record: Record) -> None:
    assert records_of(decode_records(encode_records([record]))) == [record]


MALFORMED: list[dict[str, Any]] = [
    {"key": b"k" * (MAX_KEY_BYTES + 1)},
    {"key": "text"},
    {"parts": [b"a list"]},
    {"parts": (b"",) * (MAX_PARTS + 1)},
    {"parts": ("text",)},
    {"parts": (None,)},
    {"parts": ((b"nested",),)},
    {"headers": {f"{n}": b"" for n in range(MAX_HEADERS + 1)}},
    {"headers": {"h" * (MAX_NAME_BYTES + 1): b""}},
    {"headers": {b"name": b""}},
    {"headers": {"name": "text"}},
    {"headers": {"name": 5}},
    {"timestamp_ms": 2**63},
    {"timestamp_ms": -(2**63) - 1},
    {"timestamp_ms": 1.5},
    {"control": 300},
    {"mark": Mark("", 0, 0)},
    {"mark": Mark("p" * (MAX_NAME_BYTES + 1), 0, 0)},
    {"mark": Mark("p", -1, 0)},
    {"mark": Mark("p", 0, -1)},
    {"mark": Mark("p", 2**63, 0)},
    {"mark": Mark("p", 0, 2**63)},
]


@pytest.mark.parametrize("fields", MALFORMED, ids=lambda fields: next(iter(fields)))
def test_a_field_of_the_wrong_type_or_over_its_bound_is_malformed(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedRecord):
        encode_records([Record(), Record(**fields)])


def test_an_append_takes_at_least_one_record_and_at_most_the_bound() -> None:
    for count in (0, MAX_RECORDS + 1):
        with pytest.raises(MalformedRecord):
            encode_records([Record()] * count)
    assert len(decode_records(encode_records([Record()] * MAX_RECORDS)).keys) == MAX_RECORDS


def test_an_append_over_the_byte_bound_is_refused_naming_both_sizes() -> None:
    size = len(encode_records([Record(parts=(b"x" * 1000,))]))
    assert len(encode_records([Record(parts=(b"x" * 1000,))], max_bytes=size)) == size
    with pytest.raises(BatchTooLarge, match=rf"{size} bytes.*{size - 1}"):
        encode_records([Record(parts=(b"x" * 1000,))], max_bytes=size - 1)
