"""What Dynamo 0.7.1 left on NATS, read by us, is the state that Dynamo's own router makes of it."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from dynlog.kvevents import Kind, unpack_hashes
from dynlog.migrations.radix_snapshot import decode_radix_snapshot
from tests.migrations.dynamo_sample import Held, Sample, dynamos_own_dump, held_blocks

BLOCKS = 10_519
WORKERS = 3


class BruteForce:
    """The simplest fold there is: per rank, what every block hangs under; shares no code with dynlog."""

    def __init__(self) -> None:
        self.ranks: dict[tuple[int, int], dict[int, tuple[int | None, int]]] = defaultdict(dict)

    def stored(self, worker: int, rank: int, parent: int | None, blocks: list[tuple[int, int]]) -> None:
        for block, tokens in blocks:
            self.ranks[worker, rank][block] = (parent, tokens)
            parent = block

    def removed(self, worker: int, rank: int, blocks: list[int]) -> None:
        for block in blocks:
            self.ranks[worker, rank].pop(block, None)

    def held(self) -> set[Held]:
        return {
            Held(worker, rank, parent, block, tokens)
            for (worker, rank), blocks in self.ranks.items()
            for block, (parent, tokens) in blocks.items()
        }


def test_the_snapshot_holds_the_events_of_two_workers_and_nothing_is_left_over(sample: Sample) -> None:
    events = decode_radix_snapshot(sample.snapshot)
    assert len(events) == 7_907
    assert {event.kind for event in events} == {Kind.STORED}
    assert len({event.worker_id for event in events}) == 2


def test_the_tail_begins_where_the_purge_ended(sample: Sample) -> None:
    sequences = [sequence for sequence, _ in sample.tail]
    assert sequences == list(range(560, 762))


def test_snapshot_and_tail_folded_by_brute_force_are_dynamos_own_dump(sample: Sample) -> None:
    fold = BruteForce()
    for event in decode_radix_snapshot(sample.snapshot):
        blocks = list(zip(unpack_hashes(event.block_hashes), unpack_hashes(event.tokens_hashes), strict=True))
        fold.stored(event.worker_id, event.dp_rank, event.parent_hash, blocks)
    for _, message in sample.tail:
        _fold_message(fold, json.loads(message))
    dump = held_blocks(dynamos_own_dump())
    assert len(dump) == BLOCKS
    assert len({held.worker_id for held in dump}) == WORKERS
    assert fold.held() == dump


def _fold_message(fold: BruteForce, message: dict[str, Any]) -> None:
    worker, event = message["worker_id"], message["event"]
    match event["data"]:
        case {"stored": {"parent_hash": parent, "blocks": blocks}}:
            pairs = [(block["block_hash"], block["tokens_hash"]) for block in blocks]
            fold.stored(worker, event["dp_rank"], parent, pairs)
        case {"removed": {"block_hashes": blocks}}:
            fold.removed(worker, event["dp_rank"], blocks)
        case other:
            pytest.fail(f"the sample holds stores and removals only, not {other}")
