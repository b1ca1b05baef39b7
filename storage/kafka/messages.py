"""A dynlog record is one Kafka message that any client can read, and any client's message is a record.

    message    record
    key        the key, or null
    value      the only part; null for no part; several parts joined, their lengths in the header ``dl.parts``
    headers    the user's under their own names (a name that begins with ``dl.`` is stored as ``dl.h.`` + name), and
               dl.mark     i64 epoch, i64 sequence (big-endian), then the producer's id in UTF-8
               dl.time     i64, the producer's milliseconds since the epoch
               dl.control  u8, a `Control`
               dl.parts    u32 length of each part
               dl.expect   i64, the offset that an append with ``expect=`` wants for the message.  One that got another
                           offset is *void*: it was refused by log order, and no dynlog reader takes it for a record.
                           Other clients see it, and should leave out what has this header and another offset
    timestamp  the broker's (topics that dynlog makes have ``message.timestamp.type=LogAppendTime``): log time

Headers that say nothing are left out: a record of one part without mark, control and time is what any producer sends.
A foreign message so reads as a raw record (of a header name that stands twice the last one counts, a null header is
empty); one whose ``dl.`` headers cannot be read is refused as MalformedRecord naming its offset.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from dynlog.codec import MAX_RECORDS, U63_MAX, Columns, MarkRun, check_record
from dynlog.errors import MalformedRecord
from dynlog.record import NO_HEADERS, Control, Record

RESERVED = "dl."
ESCAPED = "dl.h."
_BEYOND = 1 << 62  # no offset is so high
MARK, TIME, CONTROL, PARTS, EXPECT = "dl.mark", "dl.time", "dl.control", "dl.parts", "dl.expect"
BATCH_OVERHEAD = 61
RECORD_OVERHEAD = 21
_I64 = struct.Struct(">q")
_MARK = struct.Struct(">qq")

Header = tuple[str, bytes | None]


Message = tuple[bytes | None, bytes | None, list[Header]]
"""What goes to Kafka for one record: key, value, headers.  A bare tuple: one is made per record."""


def messages_of(records: Sequence[Record], expect: int | None = None) -> tuple[list[Message], int]:
    """The messages and at most how many bytes their batch takes; copies every buffer.  Raises MalformedRecord.

    With ``expect`` they count only if the first of them gets that offset.
    """
    if not 0 < len(records) <= MAX_RECORDS:
        raise MalformedRecord(f"an append takes 1 to {MAX_RECORDS} records, not {len(records)}")
    messages: list[Message] = []
    size, size_of, pack = BATCH_OVERHEAD + RECORD_OVERHEAD * len(records), DefaultRecordBatchBuilder.size_of, _MARK.pack
    producers: dict[str, bytes] = {}
    for number, record in enumerate(records):
        check_record(record)
        headers = _headers(record) if record.headers or record.timestamp_ms or record.control is not None else []
        mark, parts, key = record.mark, record.parts, record.key
        if mark is not None:
            producer = producers.get(mark.producer_id) or producers.setdefault(mark.producer_id, mark[0].encode())
            headers.append((MARK, pack(mark[1], mark[2]) + producer))
        if expect is not None:
            headers.append((EXPECT, _I64.pack(min(expect, _BEYOND) + number)))
        if len(parts) == 1:
            value: bytes | None = bytes(parts[0])
        elif not parts:
            value = None
        else:
            lengths = [part.nbytes if isinstance(part, memoryview) else len(part) for part in parts]
            headers.append((PARTS, struct.pack(f">{len(parts)}I", *lengths)))
            value = b"".join(parts)
        messages.append((key, value, headers))
        size += size_of(key, value, headers)
    return messages, size


def _headers(record: Record) -> list[Header]:
    """The user's headers, time and control."""
    headers: list[Header] = [
        (ESCAPED + name if name.startswith(RESERVED) else name, value) for name, value in record.headers.items()
    ]
    if record.timestamp_ms:
        headers.append((TIME, _I64.pack(record.timestamp_ms)))
    if record.control is not None:
        headers.append((CONTROL, bytes((record.control,))))
    return headers


class ColumnsBuilder:
    """Puts messages, in order, into columns."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.log_times: list[int] = []
        self._keys: list[bytes | None] = []
        self._bodies: list[list[bytes]] = []
        self._headers: dict[int, dict[str, bytes]] = {}
        self._controls: dict[int, int] = {}
        self._times: dict[int, int] = {}
        self._marks: list[MarkRun] = []
        # The run of marks that the next record may go on with: what its header would be, and how long it is so far.
        self._expected: bytes | None = None
        self._length = 0

    def take(self, batch: Iterable[Any], start: int, limit: int | None) -> int | None:
        """Adds a batch's records from the offset ``start`` on, until there are ``limit``; the first one left out.

        Raises MalformedRecord for ``dl.`` headers that cannot be read.
        """
        offsets = self.offsets
        for record in batch:
            offset, value, headers = record.offset, record.value, record.headers
            if offset < start:
                continue
            if limit is not None and len(offsets) >= limit:
                return int(offset)
            body = [value] if value is not None else []
            if len(headers) == 1 and headers[0][1] == self._expected and headers[0][0] == MARK:
                # The hot path: the producer's next record, with nothing else to say.
                packed = headers[0][1]
                self._length += 1
                self._expected = _following(packed)
            else:
                self._end_run()
                if headers:
                    try:
                        if _is_void(offset, headers):
                            continue
                        body = self._read_headers(len(offsets), body, headers)
                    except (struct.error, ValueError, TypeError) as error:
                        raise MalformedRecord(
                            f"offset {offset}: the message's dl. headers are not dynlog's: {error}"
                        ) from None
            offsets.append(offset)
            self.log_times.append(record.timestamp)
            self._keys.append(record.key)
            self._bodies.append(body)
        return None

    def _read_headers(self, index: int, body: list[bytes], headers: list[Header]) -> list[bytes]:
        for name, value in headers:
            if name == MARK:
                self._begin_run(index, value or b"")
            elif not name.startswith(RESERVED):
                self._headers.setdefault(index, {})[name] = value or b""
            elif name == TIME:
                (self._times[index],) = _I64.unpack(value or b"")
            elif name == EXPECT:
                pass  # met, or the message would be void
            elif name == PARTS:
                body = _split(body[0] if body else b"", value or b"")
            elif name == CONTROL:
                self._controls[index] = Control((value or b"")[0] if value else 0)
            elif name.startswith(ESCAPED):
                self._headers.setdefault(index, {})[name.removeprefix(ESCAPED)] = value or b""
            else:
                raise ValueError(f"{name} is not known")
        return body

    def _begin_run(self, index: int, packed: bytes) -> None:
        """A mark that may be the first of a run; joined to the run before it where it goes on with that."""
        epoch, sequence = _MARK.unpack_from(packed)
        producer = packed[16:].decode()
        if epoch < 0 or sequence < 0 or not producer:
            raise ValueError("a mark is out of bounds")
        last = self._marks[-1] if self._marks else None
        if last is not None and last[2:4] == (producer, epoch) and last.sequence + last.length == sequence and (
            last.start + last.length == index
        ):  # fmt: skip
            self._marks[-1] = last._replace(length=last.length + 1)
        elif last is not None and last.start == index:
            raise ValueError("two marks")
        else:
            self._marks.append(MarkRun(index, 1, producer, epoch, sequence))
        self._expected, self._length = _following(packed), 0

    def _end_run(self) -> None:
        if self._length:
            last = self._marks[-1]
            self._marks[-1] = last._replace(length=last.length + self._length)
        self._expected, self._length = None, 0

    def build(self) -> Columns:
        """The columns of all messages added."""
        self._end_run()
        indices = range(len(self.offsets))
        headers: list[Mapping[str, bytes]] | None = None
        if self._headers:
            headers = [self._headers.get(index, NO_HEADERS) for index in indices]
        controls = bytes(self._controls.get(i, 0) for i in indices) if self._controls else None
        times = array("q", [self._times.get(i, 0) for i in indices]) if self._times else None
        return Columns(self._keys, self._bodies, headers, controls, times, self._marks)


def _is_void(offset: int, headers: Iterable[Header]) -> bool:
    """Whether the message expected another offset than it got."""
    return any(name == EXPECT and _I64.unpack(value or b"") != (offset,) for name, value in headers)


def _following(packed: bytes) -> bytes | None:
    """The mark after that one; None after the last there can be."""
    epoch, sequence = _MARK.unpack_from(packed)
    return _MARK.pack(epoch, sequence + 1) + packed[16:] if sequence < U63_MAX else None


def _split(value: bytes, packed: bytes) -> list[bytes]:
    lengths = struct.unpack(f">{len(packed) // 4}I", packed)
    if sum(lengths) != len(value):
        raise ValueError(f"{PARTS} says {sum(lengths)} bytes, the value has {len(value)}")
    parts, at = [], 0
    for length in lengths:
        parts.append(value[at : at + length])
        at += length
    return parts
