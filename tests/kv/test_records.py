"""Facts and records: what is written is read back, and what no dynlog wrote is refused by name."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynlog.errors import MalformedRecord
from dynlog.kv.records import Beat, Create, Delete, Fact, Grant, Picture, Put, Revoke, Update, from_parts, to_record
from dynlog.kv.rows import pack_rows, unpack_rows
from tests.kv.facts import FACTS


@given(FACTS)
@example(Picture(7, 1, "a", "b", True, b"body"))
def test_what_is_written_is_read_back(fact: Fact | None) -> None:
    if fact is not None:
        record = to_record(fact)
        assert from_parts(record.key, [bytes(part) for part in record.parts]) == fact


@pytest.mark.parametrize(
    "fact",
    [
        Put("", b""),
        Put("k" * 1025, b""),
        Put("\ud800", b""),
        Put("k", b"", lease="l" * 129),
        Put("k", b"", ttl_ms=-1),
        Create("ü" * 513, b""),
        Update("k", b"", 0, ttl_ms=2**63),
        Grant("", 1, ""),
        Grant("l", 0, ""),
        Grant("l", 1, "o" * 1025),
        Beat("p", ("",)),
        Beat("p", ("l",) * 4097),
        Revoke(""),
        Picture(0, 3, "", "", False, b""),
        Picture(0, 1, "b", "a", False, b""),
    ],
)
def test_what_is_over_a_bound_is_not_written(fact: Fact) -> None:
    with pytest.raises(MalformedRecord):
        to_record(fact)


@pytest.mark.parametrize(
    ("key", "head", "more"),
    [
        (b"k", [2, 5], []),  # another version
        (b"k", [1, 99], []),
        (b"k", [1, 1, "", 0], []),  # no value
        (b"k", [1, 1, "", 0], [b"v", b"w"]),
        (b"k", [1, 1, "", "0"], [b"v"]),
        (b"k", [1, 1, ""], [b"v"]),
        (None, [1, 1, "", 0], [b"v"]),
        (b"", [1, 5], []),
        (b"\xff", [1, 5], []),
        (b"k" * 1025, [1, 5], []),
        (b"k", [1, 7], []),  # a barrier has no key
        (None, [1, 9, "p", [1]], []),
        (None, [1, 9, "p", "l"], []),
        (None, [1, [], 0], []),
        (None, 7, []),
    ],
)
def test_what_no_dynlog_wrote_is_refused(key: bytes | None, head: Any, more: list[bytes]) -> None:
    with pytest.raises(MalformedRecord):
        from_parts(key, [msgpack.packb(head), *more])


@given(st.one_of(st.none(), st.binary(max_size=20)), st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes_are_a_fact_or_malformed(key: bytes | None, parts: list[bytes]) -> None:
    try:
        fact = from_parts(key, parts)
    except MalformedRecord:
        return
    assert to_record(fact).key == key


def test_a_deletion_without_a_revision_names_none() -> None:
    assert Delete("k").revision == -1


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_value_error(body: bytes) -> None:
    try:
        keys, rows = unpack_rows(body)
    except ValueError:
        return
    assert len(keys) == len(rows)


def test_rows_with_a_damaged_column_are_refused() -> None:
    rows = [(b"v", 1, 1, 1, 5, "l", 9, 0), (b"", 2, 1, 2, 6, "", 0, 1)]
    good = msgpack.unpackb(pack_rows(["a", "b"], rows))
    assert unpack_rows(msgpack.packb(good)) == (["a", "b"], rows)
    for column, wrong in (
        (0, ["a"]),
        (0, ["a", 1]),
        (1, [b"v"]),
        (1, ["v", b""]),
        (2, b"x"),
        (5, b""),
        (8, b"\x00\x09"),
    ):
        with pytest.raises(ValueError):
            unpack_rows(msgpack.packb([*good[:column], wrong, *good[column + 1 :]]))
