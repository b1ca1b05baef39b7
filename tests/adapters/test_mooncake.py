"""The Mooncake trace as a fleet's events."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path

import pytest

from dynlog.adapters.mooncake import Request, fleet_events, read_trace
from dynlog.errors import MalformedEvent
from dynlog.hashing import hash_tokens, lora_seed, sequence_hashes
from dynlog.kvevents import Kind, unpack_hashes

REQUESTS = [Request(0, (0, 1, 2)), Request(1, (0, 1, 3, 4)), Request(2, (5, 6)), Request(3, (0, 7)), Request(4, (0, 1))]


def test_the_same_trace_and_fleet_give_the_same_events() -> None:
    fleet = {"workers": 2, "capacity": 4, "split": 3}
    assert list(fleet_events(REQUESTS, **fleet)) == list(fleet_events(REQUESTS, **fleet))


@pytest.mark.parametrize("split", [1, 3])
def test_a_worker_never_holds_more_than_its_capacity_and_loses_the_tail_of_a_chain_first(split: int) -> None:
    held: dict[int, dict[int, int | None]] = defaultdict(dict)
    for event in fleet_events(REQUESTS * 3, workers=2, capacity=5, split=split):
        mine, blocks = held[event.worker_id], list(unpack_hashes(event.block_hashes))
        if event.kind == Kind.STORED:
            assert event.parent_hash is None or event.parent_hash in mine
            mine.update(zip(blocks, [event.parent_hash, *blocks], strict=False))
            assert len(mine) <= 5
        for block in blocks if event.kind == Kind.REMOVED else ():
            del mine[block]
            assert block not in mine.values(), "a block was removed before what hangs behind it"


def test_event_ids_count_up_in_every_worker() -> None:
    ids = defaultdict(list)
    for event in fleet_events(REQUESTS, workers=2, capacity=4):
        ids[event.worker_id].append(event.event_id)
    assert all(seen == list(range(len(seen))) for seen in ids.values())


@pytest.mark.parametrize("pack", [lambda text: text, gzip.compress], ids=["plain", "gzip"])
def test_a_trace_is_read_plain_or_compressed(tmp_path: Path, pack: type[bytes]) -> None:
    path = tmp_path / "trace"
    path.write_bytes(pack(b'{"timestamp": 3, "hash_ids": [1, 2]}\n\n{"timestamp": 4, "hash_ids": []}\n'))
    assert list(read_trace(path)) == [Request(3, (1, 2)), Request(4, ())]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b'{"hash_ids": 3}',
        b'{"hash_ids": [1, -1]}',
        b'{"hash_ids": [18446744073709551616]}',
        b'{"hash_ids": [true]}',
        b'{"hash_ids": [1, 2, 1]}',
        b'{"hash_ids": [1], "timestamp": "x"}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(json.dumps({"hash_ids": [1]}).encode() + b"\n" + line + b"\n")
    with pytest.raises(MalformedEvent, match=r"trace\.jsonl:2: "):
        list(read_trace(path))


def test_a_compressed_trace_that_is_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(b'{"hash_ids": [1, 2]}\n' * 100)[:-9])
    with pytest.raises(MalformedEvent, match=r"trace\.gz:\d+: the compressed file is damaged or cut"):
        list(read_trace(path))


def test_hashes_are_those_of_dynamo() -> None:
    from dynamo.llm import compute_block_hash_for_seq

    for size in (16, 64):
        tokens = list(range(5 * size + 3))
        assert hash_tokens(tokens, size) == list(compute_block_hash_for_seq(tokens, size))
    chain = sequence_hashes([5, 6])
    assert chain[0] == 5
    assert len(chain) == 2
    assert lora_seed(None) == lora_seed("") == 1337
    for wrong in ([-1] * 4, [2**32] * 4):
        with pytest.raises(MalformedEvent):
            hash_tokens(wrong, 4)
