"""A message as a record: the body as it is, the subject as key, every header, and from where in which stream it came.

What a mirror made of a record on its way out (see `dynlog.migrations.mirror.outbound`) becomes that record again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import NamedTuple

import msgpack

from dynlog.adapters.nats.streams import StreamMessage
from dynlog.errors import MalformedRecord
from dynlog.migrations.mirror.path import PATH, Path, longer, read_path, write_path
from dynlog.record import Control, Mark, Record

SOURCE = "dynlog-nats"
"""Header of a record: ``place/sequence/time in ns`` of the message that it was."""
SUBJECT = "dynlog-nats-subject"
KEY, CONTROL, TIME, PARTS, HEADERS = "dynlog-key", "dynlog-control", "dynlog-time", "dynlog-parts", "dynlog-headers"
"""Headers of a message: what of a record has no place of its own in one."""
OWN = frozenset((PATH, KEY, CONTROL, TIME, PARTS, HEADERS))
MAX_NAMES = 1 << 12


class Source(NamedTuple):
    """Where a record's message lay."""

    place: str
    sequence: int
    time_ns: int


def source_of(headers: Mapping[str, bytes]) -> Source | None:
    """Where the record's message lay; None for a record that was none."""
    try:
        place, sequence, time_ns = headers[SOURCE].decode().rsplit("/", 2)
        return Source(place, int(sequence), int(time_ns))
    except (KeyError, ValueError):
        return None


def producer_of(place: str) -> str:
    """The producer id of what comes from a place: its sequences are the place's."""
    return f"nats:{place}"


def path_of(message: StreamMessage) -> Path:
    """The places through which a message came."""
    return read_path(",".join((message.headers or {}).get(PATH, ())))


def to_record(message: StreamMessage, place: str) -> Record:
    """The record; raises MalformedRecord, naming what a record cannot hold."""
    headers: dict[str, bytes] = {}
    said = message.headers or {}
    for name, values in said.items():
        if name not in OWN:
            headers[name] = b"\n".join(value.encode("utf-8", "surrogateescape") for value in values)
    if message.malformed is not None:
        headers["dynlog-nats-headers"] = message.malformed
    headers.update(_packed_headers(said))
    headers[SOURCE] = f"{place}/{message.sequence}/{message.time_ns}".encode()
    headers[SUBJECT] = message.subject.encode("utf-8", "surrogateescape")
    headers[PATH] = write_path(longer(path_of(message), place)).encode("utf-8", "replace")
    return Record(
        parts=_parts(message.data, _one(said, PARTS)),
        key=_key(_one(said, KEY), headers[SUBJECT]),
        headers=headers,
        control=_control(_one(said, CONTROL)),
        timestamp_ms=_number(_one(said, TIME), message.time_ns // 1_000_000),
        mark=Mark(producer_of(place), 0, message.sequence),
    )


def _one(headers: Mapping[str, list[str]], name: str) -> str | None:
    values = headers.get(name)
    return values[0] if values else None


def _key(said: str | None, subject: bytes) -> bytes | None:
    """``-`` says that there was none; a message that was no record has its subject."""
    if said is None:
        return subject
    return None if said == "-" else _bytes(KEY, said)


def _parts(data: bytes, said: str | None) -> tuple[bytes, ...]:
    if said is None:
        return (data,)
    try:
        sizes = [int(size) for size in said.split(",")] if said != "-" else []
    except ValueError:
        sizes = [-1]
    if sum(sizes) != len(data) or any(size < 0 for size in sizes):
        raise MalformedRecord(f"the header {PARTS} says {said!r} of a body of {len(data)} bytes")
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return tuple(parts)


def _control(said: str | None) -> Control | None:
    if said is None:
        return None
    try:
        return Control[said]
    except KeyError:
        raise MalformedRecord(f"the header {CONTROL} says {said!r}, which is no control") from None


def _number(said: str | None, otherwise: int) -> int:
    try:
        return otherwise if said is None else int(said)
    except ValueError:
        raise MalformedRecord(f"the header {TIME} says {said!r}, which is no time") from None


def _packed_headers(said: Mapping[str, list[str]]) -> dict[str, bytes]:
    text = _one(said, HEADERS)
    if text is None:
        return {}
    try:
        found = msgpack.unpackb(_bytes(HEADERS, text), max_map_len=MAX_NAMES)
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedRecord(f"the header {HEADERS} holds no headers: {error}") from None
    if not isinstance(found, dict) or not all(type(k) is str and type(v) is bytes for k, v in found.items()):
        raise MalformedRecord(f"the header {HEADERS} holds no headers")
    return found


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRecord(f"the header {name} is no base64: {text[:60]!r}") from None
