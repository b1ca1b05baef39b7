"""The event plane's frames, checked against bytes that ai-dynamo-runtime 1.6.1 sent."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlog.adapters.dynamo_envelope import Envelope, decode_frame, decode_payload, encode_frame
from dynlog.adapters.dynamo_json import router_event
from dynlog.errors import MalformedEvent
from dynlog.kvevents import Kind, KvEvent, pack_hashes
from tests.adapters.damage import refusals
from tests.adapters.events import kv_events

MEASURED = (
    b"\x01\x00\x00\x00\xc4\x85\xacpublisher_id\xcf\x00\x07\xa1\x8b\x82\xf7\x00\x06\xa8sequence\x01\xacpublished_at\xcf"
    b"\x00\x00\x01\xa2\x142\xa3\xcd\xa5topic\xa9kv-events\xa7payload\xc4s\x91\x84\xa9worker_id\xcd\x10\x92\xac"
    b"storage_tier\xa6device\xb0residency_domain\xa6worker\xa5event\x83\xa8event_id\x02\xa4data\x81\xa7removed\x81\xac"
    b"block_hashes\x91\x0b\xa7dp_rank\x01"
)
ENVELOPE = {"topic": "", "publisher_id": 1, "sequence": 1, "published_at": 1, "payload": b""}


def test_a_frame_of_1_6_1_is_read() -> None:
    envelope = decode_frame(MEASURED)
    assert envelope[:4] == ("kv-events", 2147945406726150, 1, 1795635192781)
    assert decode_payload(envelope.payload) == [
        KvEvent(4242, Kind.REMOVED, pack_hashes([11]), dp_rank=1, event_id=2)
    ]  # fmt: skip


def test_a_bare_envelope_is_read_as_well() -> None:
    assert decode_frame(MEASURED[5:]) == decode_frame(MEASURED)
    assert encode_frame(decode_frame(MEASURED)) == MEASURED


@given(st.lists(kv_events(), max_size=4), st.booleans())
def test_events_survive_the_envelope(events: list[KvEvent], framed: bool) -> None:
    payload = msgpack.packb([router_event(event) for event in events])
    envelope = Envelope("kv-events", 5, 6, 7, payload)
    assert decode_frame(encode_frame(envelope, framed=framed)) == envelope
    assert decode_payload(envelope.payload) == events


@given(kv_events())
def test_one_event_without_an_array_is_read(event: KvEvent) -> None:
    assert decode_payload(msgpack.packb(router_event(event))) == [event]


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (b"", "0 bytes"),
        (b"\x01\x00", "header"),
        (MEASURED + b"\x00", "was announced"),
        (MEASURED[:-1], "was announced"),
        (b"\x02" + MEASURED[1:], "begins with"),
        (MEASURED[5:] + b"\x00", "envelope: not MessagePack"),
        (msgpack.packb({"topic": "x"}), "is missing"),
        (msgpack.packb(ENVELOPE | {"topic": 1}), "envelope.topic"),
        (msgpack.packb(ENVELOPE | {"publisher_id": -1}), "publisher_id: -1 is negative"),
        (msgpack.packb(ENVELOPE | {"sequence": True}), "sequence: a whole number is needed"),
        (msgpack.packb(ENVELOPE | {"payload": ""}), "envelope.payload"),
        (msgpack.packb(ENVELOPE | {"surprise": ""}), "'surprise' is in no profile"),
    ],
)
def test_what_is_no_frame_is_refused_by_name(frame: bytes, named: str) -> None:
    with pytest.raises(MalformedEvent, match=named):
        decode_frame(frame)


def test_a_payload_that_does_not_fit_names_the_event_and_the_field() -> None:
    good = router_event(KvEvent(1, Kind.CLEARED))
    with pytest.raises(MalformedEvent, match=r"payload\[1\]: worker_id"):
        decode_payload(msgpack.packb([good, good | {"worker_id": -1}]))


def test_no_truncation_and_no_flipped_bit_raises_anything_else() -> None:
    assert refusals(MEASURED, lambda frame: decode_payload(decode_frame(frame).payload)) > 1000
