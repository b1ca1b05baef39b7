"""RouterEvent lines: what Dynamo 0.7.1 to 1.6.1 writes is read, everything else is refused by name and quickly."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given

from dynlog.adapters.dynamo_json import decode_line, encode_line
from dynlog.errors import MalformedEvent
from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes
from tests.adapters.damage import refusals
from tests.adapters.events import kv_events

MEASURED_0_7_1 = (
    b'{"worker_id":7587899139709793412,"event":{"event_id":0,"data":{"stored":{"parent_hash":null,"blocks":'
    b'[{"block_hash":7165777869350885009,"tokens_hash":6658374154243783716}]}},"dp_rank":0}}'
)


def line(data: Any, **router: Any) -> bytes:
    event = {"worker_id": 7, "event": {"event_id": 1, "data": data, "dp_rank": 0}}
    return json.dumps(event | router).encode()


def stored(*blocks: Any, parent: Any = None) -> bytes:
    made = [{"block_hash": block, "tokens_hash": 1} if isinstance(block, int | float) else block for block in blocks]
    return line({"stored": {"parent_hash": parent, "blocks": made}})


def test_the_bare_form_of_0_7_1_is_read() -> None:
    assert decode_line(MEASURED_0_7_1) == KvEvent(
        worker_id=7587899139709793412,
        kind=Kind.STORED,
        block_hashes=pack_hashes([7165777869350885009]),
        tokens_hashes=pack_hashes([6658374154243783716]),
    )


def test_the_fields_of_1_6_1_are_read() -> None:
    block = {"block_hash": 5, "tokens_hash": 6, "mm_extra_info": {"mm_objects": []}}
    data = {"stored": {"parent_hash": 4, "start_position": 9, "blocks": [block]}}
    event = decode_line(line(data, storage_tier="disk", residency_domain="cache_owner"))
    assert (event.tier, event.domain, event.start_position, event.parent_hash) == (Tier.DISK, Domain.CACHE_OWNER, 9, 4)


def test_cleared_and_removed_are_read() -> None:
    assert decode_line(line("cleared")).kind is Kind.CLEARED
    assert decode_line(line({"removed": {"block_hashes": [2**64 - 1]}})).block_hashes == b"\xff" * 8


@given(kv_events())
def test_every_event_survives_being_written_and_read(event: KvEvent) -> None:
    assert decode_line(encode_line(event)) == event


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (b"", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (MEASURED_0_7_1 + b"}", "not JSON"),
        (MEASURED_0_7_1.replace(b"7587899139709793412", b"NaN"), "NaN"),
        (MEASURED_0_7_1.replace(b"7587899139709793412", b"1e3"), "worker_id"),
        (MEASURED_0_7_1.replace(b"7587899139709793412", b"1" * 5000), "not JSON"),
        (b"[]", "the event: an object is needed"),
        (b"{}", "event, worker_id is missing"),
        (line("cleared", worker_id=True), "worker_id: a whole number is needed, not True"),
        (line("cleared", worker_id=-1), "worker_id: -1 is negative"),
        (line("cleared", worker_id=2**64), "worker_id: 18446744073709551616 is over"),
        (line("cleared", worker_id="7"), "worker_id: a whole number is needed, not '7'"),
        (line("cleared", event=[]), "event: an object is needed"),
        (line("cleared", surprise=1), "'surprise' is in no profile"),
        (line("cleared", storage_tier="gpu"), "storage_tier: one of device"),
        (line("cleared", storage_tier=[]), "storage_tier: one of device"),
        (line("cleared", residency_domain=None), "residency_domain: one of worker"),
        (line("evaporated"), "event.data"),
        (line({"stored": {}, "removed": {}}), "event.data"),
        (line({"removed": {"block_hashes": [1, -2]}}), r"removed.block_hashes\[1\]: -2 is negative.*i64"),
        (line({"removed": {"block_hashes": [True]}}), r"removed.block_hashes\[0\]: a whole number is needed, not True"),
        (line({"removed": {"block_hashes": 5}}), "removed.block_hashes: a list is needed"),
        (line({"removed": {"block_hashes": [0] * 40_000}}), "40000 hashes in one event"),
        (stored(2**64), r"block_hash\[0\]: 18446744073709551616 is over"),
        (stored(1.5), r"block_hash\[0\]: a whole number is needed, not 1.5"),
        (stored({"block_hash": 1}), "tokens_hash is missing"),
        (stored({"block_hash": 1, "tokens_hash": 2, "x": 3}), "'x' is in no profile"),
        (stored({"block_hash": 1, "tokens_hash": 2, "mm_extra_info": 3}), "mm_extra_info"),
        (stored([]), r"stored.blocks\[0\]: an object is needed"),
        (stored(5, parent=5), "block 5 is its own parent"),
        (stored(5, 6, 5), "block 5 stands twice"),
        (stored(5, parent="4"), "stored.parent_hash"),
    ],
)
def test_what_fits_no_profile_is_refused_naming_the_field(bad: bytes, named: str) -> None:
    with pytest.raises(MalformedEvent, match=named):
        decode_line(bad)


@pytest.mark.parametrize("bad", [b"[" * 10_000_000, b"[" * 4_000_000, b'{"a":' * 800_000, b'"' + b"x" * 10_000_000])
def test_ten_megabytes_of_nesting_are_refused_at_once(bad: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(MalformedEvent, match=r"nested too deeply|a line of more than"):
        decode_line(bad)
    assert time.monotonic() - began < 1


def test_no_truncation_and_no_flipped_bit_raises_anything_else() -> None:
    event = decode_line(stored(5, 6, parent=4))
    assert refusals(encode_line(event), decode_line) > 1000
    assert refusals(MEASURED_0_7_1, decode_line) > 1000
