"""Records to bytes and back: versioned, bounded msgpack in columns, sealed with a CRC-32C.

Two layers.  `encode_records` makes the *payload*: one msgpack array of columns, so that a reader decodes a batch in one
call of C.  `seal` puts a header and a CRC-32C before it; the CRC also covers a *context* (where the batch lies), so a
frame that is read from the wrong place is as corrupt as one with a flipped bit.

    frame    magic "DL" | version u8 | flags u8 (0) | length u32 | crc32c u32 | payload          (little-endian)
    payload  [count, keys, bodies, headers, controls, timestamps, marks]
             keys        [bin | nil] * count
             bodies      [[bin, ...]] * count
             headers     nil | [{str: bin}] * count
             controls    nil | bin of count u8 (0 = none)
             timestamps  nil | bin of count i64
             marks       nil | [[start, length, producer_id, epoch, sequence], ...], counting up in a run

CRC-32C is RFC 3720's (Castagnoli); msgpack is the specification at msgpack.org.  Release N reads what N-1 wrote.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import google_crc32c
import msgpack

from dynlog.errors import BatchTooLarge, MalformedRecord, UnsupportedLogVersion
from dynlog.packing import pack
from dynlog.record import NO_HEADERS, Buffer, Control, Mark, Record

VERSION = 1
MAGIC = b"DL"
FRAME = struct.Struct("<2sBBII")
_SEALED = struct.Struct("<BBI")  # what of the header is under the checksum

MAX_BATCH_BYTES = 1 << 20
"""Default bound of an encoded append (Kafka's own default for a message set)."""
MAX_PAYLOAD_BYTES = 64 << 20
MAX_RECORDS = 1 << 16
MAX_PARTS = 1 << 10
MAX_HEADERS = 256
MAX_KEY_BYTES = 1 << 16
MAX_NAME_BYTES = 256
I64_MIN, I64_MAX, U63_MAX = -(2**63), 2**63 - 1, 2**63 - 1
# Columns are gathered and judged by loops of C: a record that is appended alone pays for every one of them.
_KEY, _PARTS, _HEADERS = attrgetter("key"), attrgetter("parts"), attrgetter("headers")
_CONTROL, _TIMESTAMP, _MARK = attrgetter("control"), attrgetter("timestamp_ms"), attrgetter("mark")
_KEY_TYPES, _BODY_TYPES, _PART_TYPES = frozenset({bytes, type(None)}), frozenset({list}), frozenset({bytes})


class MarkRun(NamedTuple):
    """``length`` neighbours, from index ``start``, of one producer; their sequences count up from ``sequence``."""

    start: int
    length: int
    producer_id: str
    epoch: int
    sequence: int


class Columns(NamedTuple):
    """A decoded payload; columns that no record uses are None."""

    keys: list[bytes | None]
    bodies: list[list[bytes]]
    headers: list[Mapping[str, bytes]] | None
    controls: bytes | None
    timestamps: array[int] | None
    marks: list[MarkRun]


def mark_runs(marks: Sequence[Mark | None]) -> list[MarkRun]:
    """Run-length form of the marks of neighbouring records; records without a mark are in no run."""
    runs: list[MarkRun] = []
    if len(marks) == 1 and (only := marks[0]) is not None:
        return [MarkRun(0, 1, *only)]
    # The run that is growing is kept in plain names: a tuple made anew for each record cost more than all the rest.
    producer_id, epoch = "", 0
    length = first = start = 0
    next_: tuple[str, int, int] | None = None
    for index, mark in enumerate(marks):
        if mark is None:
            if length:
                runs.append(MarkRun(start, length, producer_id, epoch, first))
                length, next_ = 0, None
        elif mark == next_:
            length += 1
            next_ = (producer_id, epoch, first + length)
        else:
            if length:
                runs.append(MarkRun(start, length, producer_id, epoch, first))
            producer_id, epoch, first = mark
            start, length, next_ = index, 1, (producer_id, epoch, first + 1)
    if length:
        runs.append(MarkRun(start, length, producer_id, epoch, first))
    return runs


def encode_records(records: Sequence[Record], *, max_bytes: int = MAX_BATCH_BYTES) -> bytes:
    """The payload of the records; refuses whole what is over a bound.

    Raises BatchTooLarge over ``max_bytes``, MalformedRecord for no record, a field of the wrong type or over its bound.
    """
    return encode_with_runs(records, max_bytes=max_bytes)[0]


def encode_with_runs(records: Sequence[Record], *, max_bytes: int = MAX_BATCH_BYTES) -> tuple[bytes, list[MarkRun]]:
    """`encode_records`, and the marks that went into it as `mark_runs` gives them."""
    count = len(records)
    if not 0 < count <= MAX_RECORDS:
        raise MalformedRecord(f"an append takes 1 to {MAX_RECORDS} records, not {count}")
    for record in records:
        check_record(record)
    runs = mark_runs(list(map(_MARK, records)))
    columns = _columns(records) if count > 1 else _columns_of_one(records[0])
    try:
        payload = pack([count, *columns, runs or None])
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedRecord(f"a record has a field of the wrong type: {error}") from None
    if len(payload) > max_bytes:
        raise BatchTooLarge(
            f"{count} records are {len(payload)} bytes, over the {max_bytes} that one append may have: nothing was "
            "stored; send fewer at once, or put large bodies into an object store"
        )
    return payload, runs


def _columns(records: Sequence[Record]) -> tuple[object, ...]:
    return (
        list(map(_KEY, records)),
        list(map(_PARTS, records)),
        [dict(record.headers) for record in records] if any(map(_HEADERS, records)) else None,
        bytes(record.control or 0 for record in records) if any(map(_CONTROL, records)) else None,
        _little_endian(array("q", map(_TIMESTAMP, records))) if any(map(_TIMESTAMP, records)) else None,
    )


def _columns_of_one(record: Record) -> tuple[object, ...]:
    """As `_columns`, in a fifth of the time: whoever appends one record waits for every microsecond of it."""
    return (
        (record.key,),
        (record.parts,),
        (dict(record.headers),) if record.headers else None,
        bytes((record.control,)) if record.control else None,
        _little_endian(array("q", (record.timestamp_ms,))) if record.timestamp_ms else None,
    )


def check_record(record: Record) -> None:
    """Raises MalformedRecord for a record over a bound or with a field of the wrong type."""
    key, mark, parts = record.key, record.mark, record.parts
    if key is not None and (not isinstance(key, bytes) or len(key) > MAX_KEY_BYTES):
        raise MalformedRecord(f"a key is bytes, at most {MAX_KEY_BYTES}, or None")
    if not isinstance(parts, tuple) or len(parts) > MAX_PARTS:
        raise MalformedRecord(f"a body is a tuple of at most {MAX_PARTS} buffers")
    for part in parts:
        if type(part) is bytes:  # nearly all are
            continue
        if not isinstance(part, bytes | memoryview | bytearray):
            raise MalformedRecord(f"a part of a body is a buffer, not {type(part).__name__}")
        if isinstance(part, memoryview) and not part.c_contiguous:
            raise MalformedRecord("a part of a body is a buffer with gaps; make it contiguous: bytes(part)")
    if record.headers:
        if len(record.headers) > MAX_HEADERS:
            raise MalformedRecord(f"{len(record.headers)} headers, at most {MAX_HEADERS} are allowed")
        for name, value in record.headers.items():
            if not isinstance(name, str) or not isinstance(value, bytes) or len(name) > MAX_NAME_BYTES:
                raise MalformedRecord(f"header {name!r}: names are str of at most {MAX_NAME_BYTES}, values are bytes")
    if record.control is not None and not isinstance(record.control, Control):
        raise MalformedRecord(f"control {record.control!r} is not one of {', '.join(c.name for c in Control)}")
    timestamp_ms = record.timestamp_ms
    if not isinstance(timestamp_ms, int) or not I64_MIN <= timestamp_ms <= I64_MAX:
        raise MalformedRecord(f"timestamp {timestamp_ms} is not a 64-bit number of milliseconds")
    if mark is not None and not (
        isinstance(mark.producer_id, str)
        and 0 < len(mark.producer_id) <= MAX_NAME_BYTES
        and 0 <= mark.epoch <= U63_MAX
        and 0 <= mark.sequence <= U63_MAX
    ):
        raise MalformedRecord(f"mark {mark}: an id of 1 to {MAX_NAME_BYTES} characters, epoch and sequence 0..2^63-1")


def encoded_bound(record: Record) -> int:
    """At most this many bytes does the record add to a payload (msgpack's headers are 5 bytes at most)."""
    size = body_bound(record.key, record.parts)
    for name, value in record.headers.items():
        size += 10 + 4 * len(name) + len(value)
    if record.mark is not None:
        size += 40 + 4 * len(record.mark.producer_id)
    return size


def body_bound(key: bytes | None, parts: Sequence[Buffer]) -> int:
    """`encoded_bound` of a record that has a key and a body and nothing else."""
    size = 20 if key is None else 24 + len(key)
    for part in parts:
        size += 5 + (part.nbytes if isinstance(part, memoryview) else len(part))
    return size


def decode_records(payload: bytes | memoryview) -> Columns:
    """The columns of a payload; raises MalformedRecord unless it is exactly what `encode_records` makes."""
    size = len(payload)
    try:
        value: Any = msgpack.unpackb(
            payload,
            max_bin_len=size, max_str_len=MAX_NAME_BYTES * 4, max_array_len=MAX_RECORDS, max_map_len=MAX_HEADERS,
            max_ext_len=0,
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedRecord(f"a payload of {size} bytes is not msgpack: {type(error).__name__} {error}") from None
    try:
        count, keys, bodies, headers, controls, timestamps, marks = value
        _expect(isinstance(count, int) and 0 < count == len(keys) == len(bodies), "counts do not agree")
        _expect(_KEY_TYPES.issuperset(map(type, keys)), "a key is not bytes")
        _expect(_BODY_TYPES.issuperset(map(type, bodies)), "a body is not a list of parts")
        _expect(_PART_TYPES.issuperset(map(type, chain.from_iterable(bodies))), "a part is not bytes")
        if headers is not None:
            _expect(len(headers) == count, "headers do not agree")
            for entry in headers:
                _expect(
                    all(type(k) is str and type(v) is bytes for k, v in entry.items()), "a header is not str to bytes"
                )
        if controls is not None:
            _expect(type(controls) is bytes and len(controls) == count, "controls do not agree")
            for control in set(controls) - {0}:
                Control(control)
        times: array[int] | None = None
        if timestamps is not None:
            _expect(type(timestamps) is bytes and len(timestamps) == 8 * count, "timestamps do not agree")
            times = array("q", timestamps)
            if sys.byteorder == "big":
                times.byteswap()
        runs = [MarkRun(*run) for run in marks or ()]
        if runs:
            _check_runs(runs, count)
    except MalformedRecord:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedRecord(f"a payload of {size} bytes has the wrong shape: {error}") from None
    return Columns(keys, bodies, headers, controls, times, runs)


def record_at(columns: Columns, index: int, mark: Mark | None) -> Record:
    """One record out of the columns; its mark comes from the caller, who walks the runs."""
    control = columns.controls[index] if columns.controls else 0
    return Record(
        parts=tuple(columns.bodies[index]),
        key=columns.keys[index],
        headers=columns.headers[index] if columns.headers else NO_HEADERS,
        control=Control(control) if control else None,
        timestamp_ms=columns.timestamps[index] if columns.timestamps else 0,
        mark=mark,
    )


def seal(payload: bytes, context: bytes) -> bytes:
    """A frame: header, CRC-32C over context, header and payload, then the payload."""
    crc = google_crc32c.extend(google_crc32c.value(context + _SEALED.pack(VERSION, 0, len(payload))), payload)
    return FRAME.pack(MAGIC, VERSION, 0, len(payload), crc) + payload


def unseal(frame: bytes | memoryview, context: bytes) -> memoryview:
    """The payload of a frame; raises MalformedRecord naming what differs, UnsupportedLogVersion for a newer frame."""
    if len(frame) < FRAME.size:
        raise MalformedRecord(f"a frame has at least {FRAME.size} bytes, this has {len(frame)}")
    magic, version, flags, length, crc = FRAME.unpack_from(frame)
    if magic != MAGIC:
        raise MalformedRecord(f"a frame begins with {MAGIC!r}, this with {magic!r}")
    payload = memoryview(frame)[FRAME.size :]
    if length != len(payload):
        raise MalformedRecord(f"a frame of {length} bytes was announced, {len(payload)} are there")
    found = google_crc32c.value(b"".join((context, frame[2:8], payload)))
    if found != crc:
        raise MalformedRecord(f"checksum {found:08x} instead of {crc:08x} over {length} bytes")
    # The version is judged after the checksum, so that a flipped bit is damage and not "a newer dynlog".
    if version > VERSION or flags:
        raise UnsupportedLogVersion(f"a batch of version {version}, flags {flags}: this dynlog reads up to {VERSION}")
    return payload


def _check_runs(runs: list[MarkRun], count: int) -> None:
    """Runs as `mark_runs` makes them: in order, apart, of at least one record, within 63 bits."""
    end = 0
    for run in runs:
        start, length, producer_id, epoch, sequence = run
        _expect(
            type(start) is type(length) is type(epoch) is type(sequence) is int
            and type(producer_id) is str
            and bool(producer_id)
            and end <= start
            and 0 < length <= count - start
            and 0 <= epoch <= U63_MAX
            and 0 <= sequence <= U63_MAX + 1 - length,
            "a mark is not one, is out of bounds, overlaps another or points beyond the records",
        )
        end = start + length


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise MalformedRecord(f"a payload has the wrong shape: {what}")


def _little_endian(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()
