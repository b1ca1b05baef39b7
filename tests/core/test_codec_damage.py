"""Damaged or foreign bytes are named at once: never taken for records, never a crash, never a long wait."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import google_crc32c
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlog.codec import FRAME, MAGIC, MAX_RECORDS, VERSION, decode_records, encode_records, seal, unseal
from dynlog.errors import MalformedRecord, UnsupportedLogVersion
from dynlog.record import Control, Mark, Record
from tests.core.test_codec import records_of

CONTEXT = b"incarnation/0/42"
RECORDS = [
    Record(parts=(b"a", b"", b"bc" * 30), key=b"k", headers={"h": b"v"}, control=Control.END, timestamp_ms=-7),
    Record(parts=(b"x",), mark=Mark("p", 1, 5)),
    Record(mark=Mark("p", 1, 6)),
]
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "codec-v1"


def test_a_frame_gives_back_its_payload() -> None:
    payload = encode_records(RECORDS)
    assert bytes(unseal(seal(payload, CONTEXT), CONTEXT)) == payload


def test_every_flipped_bit_of_a_frame_is_damage_and_not_a_newer_version() -> None:
    frame = seal(encode_records(RECORDS), CONTEXT)
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedRecord):
            unseal(bytes(flipped), CONTEXT)


def test_every_truncation_and_every_appended_byte_of_a_frame_is_damage() -> None:
    frame = seal(encode_records(RECORDS), CONTEXT)
    for length in range(len(frame)):
        with pytest.raises(MalformedRecord):
            unseal(frame[:length], CONTEXT)
    with pytest.raises(MalformedRecord):
        unseal(frame + b"\x00", CONTEXT)


@pytest.mark.parametrize("context", [b"", CONTEXT[:-1], CONTEXT + b"0", b"incarnation/0/43"])
def test_a_frame_read_from_the_wrong_place_is_damage(context: bytes) -> None:
    with pytest.raises(MalformedRecord):
        unseal(seal(encode_records(RECORDS), CONTEXT), context)


@pytest.mark.parametrize(("version", "flags"), [(VERSION + 1, 0), (255, 0), (VERSION, 1)])
def test_a_sound_frame_of_a_newer_version_is_named_as_such(version: int, flags: int) -> None:
    payload = encode_records(RECORDS)
    head = FRAME.pack(MAGIC, version, flags, len(payload), 0)[2:8]
    crc = google_crc32c.value(CONTEXT + head + payload)
    with pytest.raises(UnsupportedLogVersion, match=str(version)):
        unseal(FRAME.pack(MAGIC, version, flags, len(payload), crc) + payload, CONTEXT)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_malformed_or_records(data: bytes) -> None:
    _decode_or_refuse(data)


@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(["set", "cut", "insert"]))
def test_a_payload_changed_in_any_place_is_malformed_or_records(at: int, byte: int, how: str) -> None:
    payload = bytearray(encode_records(RECORDS))
    at %= len(payload)
    if how == "set":
        payload[at] = byte
    elif how == "cut":
        del payload[at:]
    else:
        payload.insert(at, byte)
    _decode_or_refuse(bytes(payload))


ATOMS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=9) | st.text(max_size=4)
SHAPES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(st.lists(SHAPES, min_size=7, max_size=7), st.integers(0, 6), SHAPES)
def test_msgpack_of_any_shape_is_malformed_or_records(columns: list[Any], at: int, value: Any) -> None:
    _decode_or_refuse(msgpack.packb(columns))
    sound = msgpack.unpackb(encode_records(RECORDS), strict_map_key=False)
    sound[at] = value
    _decode_or_refuse(msgpack.packb(sound))


WRONG_MARKS: dict[str, list[Any]] = {
    "beyond the records": [[0, 4, "p", 1, 0]],
    "of no record": [[1, 0, "p", 1, 0]],
    "overlapping": [[0, 2, "p", 1, 0], [1, 2, "q", 1, 0]],
    "out of order": [[2, 1, "p", 1, 0], [0, 1, "p", 1, 5]],
    "without an id": [[0, 1, "", 1, 0]],
    "of an epoch over 63 bits": [[0, 1, "p", 2**63, 0]],
    "counting beyond 63 bits": [[0, 2, "p", 1, 2**63 - 1]],
    "negative": [[0, 1, "p", -1, 0]],
}


@pytest.mark.parametrize("marks", WRONG_MARKS.values(), ids=WRONG_MARKS.keys())
def test_marks_that_no_encoder_writes_are_malformed(marks: list[Any]) -> None:
    columns = [3, [None] * 3, [[], [], []], None, None, None, marks]
    with pytest.raises(MalformedRecord):
        decode_records(msgpack.packb(columns))


BOMBS: dict[str, bytes] = {
    "ten megabytes of nesting": b"\x91" * (10 << 20),
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "bytes of four billion": b"\xc6\xff\xff\xff\xff" + b"x" * 100,
    "text of four billion": b"\xdb\xff\xff\xff\xff" + b"x" * 100,
    "an extension": b"\xc9\x00\x00\x00\x01\x05x",
    "a count of four billion": msgpack.packb([2**32, [None], [[]], None, None, None, None]),
    "more records than the bound": msgpack.packb(
        [MAX_RECORDS + 1, [None] * (MAX_RECORDS + 1), [[]] * (MAX_RECORDS + 1), None, None, None, None]
    ),
    "no records": msgpack.packb([0, [], [], None, None, None, None]),
    "nothing": b"",
    "a number": b"\x01",
}


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS.keys())
def test_huge_lengths_counts_and_nesting_are_refused_quickly(payload: bytes) -> None:
    started = time.process_time()
    with pytest.raises(MalformedRecord):
        decode_records(payload)
    assert time.process_time() - started < 1


def test_an_announced_length_of_four_gigabytes_is_refused() -> None:
    with pytest.raises(MalformedRecord):
        unseal(FRAME.pack(MAGIC, VERSION, 0, 2**32 - 1, 0) + b"x", CONTEXT)


def test_batches_that_version_1_wrote_decode_for_ever() -> None:
    """Written once by release 0.1.0; never write them anew: add a folder for a new version instead."""
    frames = sorted(FIXTURES.glob("*.bin"))
    assert [path.stem for path in frames] == ["every-field", "plain"]
    every, plain = (decode_records(unseal(path.read_bytes(), b"codec-v1")) for path in frames)
    assert records_of(every) == [
        Record(),
        Record(parts=(b"",), key=b""),
        Record(parts=(b"a", b"\x00\xff"), key=b"key", headers={"ü": b"\x01"}, timestamp_ms=-5, control=Control.OPEN),
        *(Record(parts=(b"%d" % n,), mark=Mark("worker:7", 3, 40 + n), control=Control.DATA) for n in range(3)),
        Record(parts=(b"other",), timestamp_ms=1_700_000_000_123, mark=Mark("q", 2**63 - 1, 2**63 - 1)),
        Record(key=b"gone", control=Control.TOMBSTONE),
    ]
    assert records_of(plain) == [Record(parts=(b"r%d" % n,), key=b"k%d" % (n % 3)) for n in range(10)]


def _decode_or_refuse(payload: bytes) -> None:
    """The only two outcomes; what decodes must also be usable, record by record."""
    try:
        columns = decode_records(payload)
    except MalformedRecord:
        return
    records = records_of(columns)
    assert len(records) == len(columns.keys)
    encode_records(records)
