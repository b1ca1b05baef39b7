"""The dump: one canonical order, Dynamo's form, orphans included."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from dynamo.llm import RadixTree
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.adapters.mooncake import Chains, fleet_events, read_trace
from dynlog.errors import MalformedEvent
from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes
from dynlog.router import forest
from dynlog.router.dump import dump_events, load_events
from dynlog.router.fold import apply_event
from dynlog.router.index import KvIndex
from dynlog.router.projection import RouterProjection
from tests.router.traffic import Traffic
from tests.shared_data import shared_file


def text(index: KvIndex) -> str:
    return json.dumps(list(dump_events(index)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), longest=st.sampled_from([1, 3, 256]))
def test_an_index_loaded_from_a_dump_dumps_the_same_and_goes_on_the_same(seed: int, longest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "MAX_RUN", longest)
        traffic = Traffic(seed, lasting=True)
        index, other = KvIndex(), RouterProjection()
        for event in traffic.events(100):
            apply_event(index, event)
            apply_event(other.index, event)
        loaded = load_events(json.loads(text(index)))
        other.restore(list(other.snapshot()))
        assert text(loaded) == text(index) == text(other.index)
        for event in traffic.events(60):
            for each in (index, loaded, other.index):
                apply_event(each, event)
        assert text(loaded) == text(index) == text(other.index)
        for _ in range(5):
            query = traffic.query()
            assert loaded.find_matches(query) == index.find_matches(query) == traffic.oracle.find(query)


def test_the_dump_does_not_depend_on_the_order_in_which_workers_and_paths_came() -> None:
    events = [
        KvEvent(worker, Kind.STORED, pack_hashes([first, first + 1]), pack_hashes([first, 7]))
        for worker in (1, 2, 3)
        for first in (10, 20, 30)
    ]
    there, back = KvIndex(), KvIndex()
    for event in events:
        apply_event(there, event)
    for event in reversed(events):
        apply_event(back, event)
    assert text(there) == text(back)


def test_an_event_of_the_dump_has_dynamos_form() -> None:
    index = KvIndex()
    apply_event(index, KvEvent(7, Kind.STORED, pack_hashes([5, 6]), pack_hashes([1, 2]), event_id=40))
    apply_event(
        index,
        KvEvent(7, Kind.STORED, pack_hashes([8]), pack_hashes([3]), tier=Tier.DISK, domain=Domain.CACHE_OWNER),
    )
    blocks = [{"block_hash": 5, "tokens_hash": 1}, {"block_hash": 6, "tokens_hash": 2}]
    more = [{"block_hash": 8, "tokens_hash": 3}]
    assert list(dump_events(index)) == [
        {
            "worker_id": 7,
            "event": {"event_id": 0, "data": {"stored": {"parent_hash": None, "blocks": blocks}}, "dp_rank": 0},
        },
        {
            "worker_id": 7,
            "storage_tier": "disk",
            "residency_domain": "cache_owner",
            "event": {"event_id": 1, "data": {"stored": {"parent_hash": None, "blocks": more}}, "dp_rank": 0},
        },
    ]  # fmt: skip


def test_an_orphan_is_dumped_with_its_gap_filled_and_removed_again() -> None:
    index = KvIndex()
    apply_event(index, KvEvent(1, Kind.STORED, pack_hashes([5, 6, 7]), pack_hashes([1, 2, 3])))
    apply_event(index, KvEvent(1, Kind.REMOVED, pack_hashes([6])))
    stored, removed = (said["event"]["data"] for said in dump_events(index))
    assert [block["block_hash"] for block in stored["stored"]["blocks"]] == [5, 6, 7]
    assert removed == {"removed": {"block_hashes": [6]}}


@pytest.mark.parametrize(
    ("name", "workers", "capacity", "split", "requests"), [("A", 8, 2_000, 1, None), ("small C", 8, 4_000, 8, 600)]
)
def test_dumps_go_to_dynamos_radix_tree_and_back_and_every_query_agrees(
    name: str, workers: int, capacity: int, split: int, requests: int | None
) -> None:
    trace = shared_file("mooncake_conversation_trace.jsonl.gz")
    index = KvIndex()
    for event in fleet_events(islice(read_trace(trace), requests), workers=workers, capacity=capacity, split=split):
        apply_event(index, event)
    theirs = RadixTree()
    for said in dump_events(index):
        theirs.apply_event(said["worker_id"], json.dumps(said["event"]).encode())
    back = load_events(json.loads(said) for said in theirs.dump_tree_as_events())
    assert text(back) == text(index)
    chains = Chains(split)
    for request in islice(read_trace(trace), requests):
        query = [block.tokens_hash for block in chains.of(request)]
        ours = index.find_matches(query)
        scores: object = theirs.find_matches(query).scores  # its stub names other keys than it gives
        assert ours == scores, name
        assert ours == back.find_matches(query)


def test_a_dump_with_orphans_loads_into_dynamos_radix_tree_without_an_error() -> None:
    for seed in range(20):
        index = KvIndex()
        for event in Traffic(seed, lasting=True).events(60):
            if event.tier == Tier.DEVICE and event.domain == Domain.WORKER:
                apply_event(index, event)
        theirs = RadixTree()
        for said in dump_events(index):
            theirs.apply_event(said["worker_id"], json.dumps(said["event"]).encode())


ORPHAN = {"parent_hash": 9, "blocks": [{"block_hash": 1, "tokens_hash": 1}]}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"worker_id": 1, "event": {"event_id": 0, "data": "nothing"}},
        {"worker_id": 1, "event": {"event_id": 0, "data": {"removed": {"block_hashes": [-1]}}}},
        {"worker_id": 1, "event": {"event_id": 0, "data": "cleared"}, "storage_tier": "x"},
        {"worker_id": 1, "event": {"event_id": 0, "data": {"stored": ORPHAN}}},
    ],
)
def test_what_is_no_event_or_has_no_parent_is_refused_by_number(said: dict[str, object]) -> None:
    with pytest.raises(MalformedEvent, match="event 0 of the dump"):
        load_events([said])
