"""vLLM batches: both forms, all hash types, tokens hashed as Dynamo does; what cannot be known is refused by name."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlog.adapters.vllm_events import EventBatch, decode_batch
from dynlog.errors import MalformedEvent
from dynlog.hashing import hash_tokens
from dynlog.kvevents import Kind, KvEvent, Tier, pack_hashes, unpack_hashes
from tests.adapters.damage import refusals
from tests.adapters.fake_engine import removed, stored

SHA = bytes(range(32))
LOW_64 = int.from_bytes(SHA[-8:], "big")


def batch(*events: Any, rank: int | None = 0) -> bytes:
    packed: bytes = msgpack.packb([12.5, list(events), rank])
    return packed


def decode(payload: bytes, **options: Any) -> EventBatch:
    return decode_batch(payload, worker_id=7, **options)


def only(payload: bytes, **options: Any) -> KvEvent:
    decoded = decode(payload, **options)
    assert decoded.refused == []
    (event,) = decoded.events
    return event


def test_the_map_form_of_0_33_is_read() -> None:
    event = only(batch(stored(1, 2, parent=9)))
    tokens = [1, 2, 3, 4, 2, 3, 4, 5]
    assert event == KvEvent(7, Kind.STORED, pack_hashes([1, 2]), pack_hashes(hash_tokens(tokens, 4)), 9)


def test_arrays_and_maps_are_taken_in_one_batch() -> None:
    array = ["BlockStored", [3], None, [5, 6, 7, 8], 4, None, "CPU"]
    decoded = decode(
        batch(array, stored(1), ["BlockRemoved", [3]], removed(1), ["AllBlocksCleared"]), first_event_id=40
    )
    assert decoded.refused == []
    assert [event.kind for event in decoded.events] == [
        Kind.STORED, Kind.STORED, Kind.REMOVED, Kind.REMOVED, Kind.CLEARED,
    ]  # fmt: skip
    assert [event.event_id for event in decoded.events] == [40, 41, 42, 43, 44]
    assert decoded.events[0].tier is Tier.HOST_PINNED


def test_trailing_fields_may_be_missing() -> None:
    short = msgpack.packb([1.0, [["BlockStored", [3], None, [5, 6], 2], {"type": "BlockRemoved", "block_hashes": [3]}]])
    decoded = decode(short)
    assert (len(decoded.events), decoded.refused, decoded.dp_rank) == (2, [], None)


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [(5, 5), (2**64 - 1, 2**64 - 1), (-1, 2**64 - 1), (-(2**63), 2**63), (SHA, LOW_64), (b"\x01\x02", 0x0102)],
)
def test_a_hash_is_a_u64_an_i64_or_bytes(spelled: Any, meant: int) -> None:
    event = only(batch(stored(1) | {"block_hashes": [spelled], "parent_block_hash": 77}))
    assert list(unpack_hashes(event.block_hashes)) == [meant]
    parent = only(batch(stored(1) | {"parent_block_hash": spelled}))
    assert parent.parent_hash == meant


def test_the_same_block_as_bytes_and_as_number_is_the_same_block() -> None:
    child = stored(1) | {"parent_block_hash": LOW_64}
    decoded = decode(batch(stored(1) | {"block_hashes": [SHA]}, child, removed(1) | {"block_hashes": [LOW_64]}))
    first, second, third = decoded.events
    assert first.block_hashes == third.block_hashes == pack_hashes([LOW_64])
    assert second.parent_hash == LOW_64


def test_a_lora_name_salts_the_tokens_hashes() -> None:
    plain, salted = only(batch(stored(1))), only(batch(stored(1, lora_name="sql", lora_id=3)))
    assert salted.tokens_hashes == pack_hashes(hash_tokens([1, 2, 3, 4], 4, "sql")) != plain.tokens_hashes
    assert only(batch(stored(1, lora_name="sql", extra_keys=[["sql"]]))).tokens_hashes == salted.tokens_hashes


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (stored(1, block_size=8), "block_size: this engine's blocks hold 8 tokens, the topic's 4"),
        (stored(1) | {"block_size": 0}, "block_size"),
        (stored(1) | {"block_size": True}, "block_size"),
        (stored(1) | {"token_ids": [1, 2, 3]}, "token_ids: 3 tokens for 1 blocks of 4: the blocks are incomplete"),
        (stored(1) | {"token_ids": [1, 2, 3, True]}, "token_ids"),
        (stored(1) | {"token_ids": [1, 2, 3, -4]}, "token id"),
        (stored(1) | {"block_hashes": [1.5]}, r"block_hashes\[0\]"),
        (stored(1) | {"block_hashes": [b""]}, r"block_hashes\[0\]"),
        (stored(1) | {"block_hashes": ["1"]}, r"block_hashes\[0\]"),
        (stored(1, parent=1), "block 1 is its own parent"),
        (stored(1, 2, 1), "block 1 stands twice"),
        (stored(1, medium="TAPE"), "medium: one of GPU"),
        (stored(1, lora_id=3), "lora_id: 3 without lora_name"),
        (stored(1, extra_keys=[["image-hash"]]), r"extra_keys\[0\]"),
        (stored(1, kv_cache_spec_kind="sliding_window"), "kv_cache_spec_kind"),
        (stored(1, surprise=1), "'surprise' is in no profile"),
        ({"type": "BlockStored", "block_hashes": []}, "token_ids is missing"),
        ({"type": "BlockMoved"}, "event type 'BlockMoved' is unknown"),
        ({"type": 5}, "event type 5 is unknown"),
        ([], "a map with 'type'"),
        (["AllBlocksCleared", 1], "1 fields; the longest profile has 0"),
        (17, "a map with 'type'"),
    ],
)
def test_an_event_that_does_not_fit_is_refused_by_name_and_its_neighbours_are_taken(event: Any, named: str) -> None:
    decoded = decode(batch(removed(8), event, removed(9)), block_size=4)
    assert [list(unpack_hashes(taken.block_hashes)) for taken in decoded.events] == [[8], [9]]
    (reason,) = decoded.refused
    with pytest.raises(MalformedEvent, match=named):
        raise MalformedEvent(reason)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"", "not MessagePack"),
        (batch(removed(1)) + b"\x00", "not MessagePack"),
        (b"\x91" * 10_000_000, "not MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "not MessagePack"),
        (msgpack.packb([1.0]), "the batch"),
        (msgpack.packb([1.0, [], 0, 0]), "the batch"),
        (msgpack.packb({"ts": 1.0}), "the batch"),
        (msgpack.packb([float("nan"), [], 0]), "ts"),
        (msgpack.packb([True, [], 0]), "ts"),
        (msgpack.packb([1.0, {}, 0]), "events"),
        (msgpack.packb([1.0, [], -1]), "data_parallel_rank: -1 is negative"),
        (batch(removed(1), rank=3), "data_parallel_rank: a batch of rank 3 came from a source of rank 0"),
    ],
)
def test_a_batch_that_cannot_be_read_to_its_last_byte_is_refused(payload: bytes, named: str) -> None:
    with pytest.raises(MalformedEvent, match=named):
        decode(payload)


def test_no_truncation_and_no_flipped_bit_raises_anything_else() -> None:
    array = ["BlockStored", [SHA, -3], 7, [5, 6, 7, 8], 2, None, "GPU", None, [None, None], 0]
    assert refusals(batch(stored(1, 2), array, removed(1), ["AllBlocksCleared"]), decode) > 100


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_refused(payload: bytes) -> None:
    try:
        decode(payload)
    except MalformedEvent:
        return
