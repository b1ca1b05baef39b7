"""Dynamo's event plane: EventEnvelope in MessagePack, framed or bare, with RouterEvents as its payload.

    frame     0x01 | length u32 big-endian | envelope        or the bare envelope (a map, 0x8X)
    envelope  {publisher_id, sequence, published_at (ms), topic, payload: bytes}
    payload   one RouterEvent as a map, or an array of them

Measured with ai-dynamo-runtime 1.6.1; every layer is read to its last byte.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import msgpack

from dynlog.adapters.dynamo_json import kv_event
from dynlog.adapters.event_checks import MAX_BLOCKS, brief, keys, whole
from dynlog.errors import MalformedEvent
from dynlog.kvevents import U64_MAX, KvEvent

MAX_FRAME_BYTES = 64 << 20
FRAME_VERSION = 1
_HEADER = struct.Struct(">BI")
_ENVELOPE: Final = {"topic", "publisher_id", "sequence", "published_at", "payload"}


class Envelope(NamedTuple):
    """Who published what; ``published_ms`` is the publisher's clock."""

    topic: str
    publisher_id: int
    sequence: int
    published_ms: int
    payload: bytes


def decode_frame(frame: bytes) -> Envelope:
    """The envelope of a frame, framed or bare; raises MalformedEvent naming what does not fit."""
    if not frame or len(frame) > MAX_FRAME_BYTES:
        raise MalformedEvent(f"a frame of {len(frame)} bytes; 1 to {MAX_FRAME_BYTES} are read")
    if frame[0] == FRAME_VERSION:
        if len(frame) < _HEADER.size:
            raise MalformedEvent(f"a frame header has {_HEADER.size} bytes, {len(frame)} are there")
        _, length = _HEADER.unpack_from(frame)
        if length != len(frame) - _HEADER.size:
            raise MalformedEvent(f"a frame of {length} bytes was announced, {len(frame) - _HEADER.size} are there")
        frame = frame[_HEADER.size :]
    elif frame[0] & 0xF0 != 0x80:
        raise MalformedEvent(f"a frame begins with 0x01 or a map, this one with {frame[0]:#04x}")
    value = _unpack(frame, "envelope")
    keys(value, "envelope", _ENVELOPE, _ENVELOPE)
    topic, payload = value["topic"], value["payload"]
    if type(topic) is not str:
        raise MalformedEvent(f"envelope.topic: a text is needed, not {brief(topic)}")
    if type(payload) is not bytes:
        raise MalformedEvent(f"envelope.payload: bytes are needed, not {brief(payload)}")
    return Envelope(
        topic,
        whole(value["publisher_id"], "envelope.publisher_id", U64_MAX),
        whole(value["sequence"], "envelope.sequence", 2**63 - 1),
        whole(value["published_at"], "envelope.published_at", 2**63 - 1),
        payload,
    )


def decode_payload(payload: bytes) -> list[KvEvent]:
    """The events of a payload; raises MalformedEvent naming the event and the field."""
    value = _unpack(payload, "payload")
    if type(value) is dict:
        return [kv_event(value)]
    if type(value) is not list:
        raise MalformedEvent(f"payload: an event or a list of events is needed, not {brief(value)}")
    events = []
    for index, raw in enumerate(value):
        try:
            events.append(kv_event(raw))
        except MalformedEvent as error:
            raise MalformedEvent(f"payload[{index}]: {error}") from None
    return events


def encode_frame(envelope: Envelope, *, framed: bool = True) -> bytes:
    """The envelope as Dynamo writes it."""
    body: bytes = msgpack.packb(
        {
            "publisher_id": envelope.publisher_id, "sequence": envelope.sequence,
            "published_at": envelope.published_ms, "topic": envelope.topic, "payload": envelope.payload,
        }
    )  # fmt: skip
    return _HEADER.pack(FRAME_VERSION, len(body)) + body if framed else body


def _unpack(data: bytes, field: str) -> Any:
    size = len(data)
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=True, max_array_len=min(size, MAX_BLOCKS * 4), max_map_len=64,
            max_str_len=1 << 16, max_bin_len=size, max_ext_len=0,
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedEvent(f"{field}: not MessagePack: {type(error).__name__} {error}") from None
