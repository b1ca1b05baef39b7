"""The index against brute force: every find, every count, after every event."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes
from dynlog.router import forest, lanes
from dynlog.router.fold import apply_event
from dynlog.router.index import KvIndex
from tests.router.oracle import Oracle
from tests.router.traffic import Traffic

NOT_IN_THE_ORACLE = {"records", "events", "rejected_records"}


@pytest.fixture(params=[(1, -1), (3, 0), (256, 1000)], ids=["tiny runs, indexed", "small runs", "as shipped"])
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    longest, patience = request.param
    monkeypatch.setattr(forest, "MAX_RUN", longest)
    monkeypatch.setattr(lanes, "_PATIENCE", patience)


def assert_same(index: KvIndex, traffic: Traffic, *, finds: int = 3) -> None:
    oracle = traffic.oracle
    counted = {name: count for name, count in index.counters.as_dict().items() if name not in NOT_IN_THE_ORACLE}
    assert counted == {name: oracle.counts.get(name, 0) for name in counted}
    assert index.workers() == oracle.blocks_by_rank()
    assert index.blocks_held == sum(len(blocks) for blocks in oracle.held.values())
    for _ in range(finds):
        query = traffic.query()
        for tier in Tier:
            assert index.find_matches(query, tier=tier) == oracle.find(query, tier)
        found = oracle.find(query)
        longest = {rank: length for rank, length in found.items() if length == max(found.values())}
        assert index.find_matches(pack_hashes(query), early_exit=True) == longest


@pytest.mark.usefixtures("_sizes")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_every_find_and_every_count_is_that_of_the_oracle(seed: int) -> None:
    index, traffic = KvIndex(), Traffic(seed)
    for event in traffic.events(120):
        apply_event(index, event)
        assert_same(index, traffic)


@pytest.mark.usefixtures("_sizes")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(st.integers(0, 2**30), min_size=1, max_size=80))
def test_traffic_that_breaks_the_promise_of_one_path_per_hash_harms_nobody_else(events: list[int]) -> None:
    index, oracle = KvIndex(), Oracle()
    honest = KvEvent(9, Kind.STORED, pack_hashes([1, 2, 3]), pack_hashes([0, 1, 2]))
    apply_event(index, honest)
    for draw in events:
        size = 1 + draw % 4
        blocks = [(draw >> 3 * at) % 6 for at in range(size)]
        kind = Kind.STORED if draw % 3 else Kind.REMOVED
        parent = (draw >> 20) % 6 if draw % 5 else None
        tokens = pack_hashes(block % 3 for block in blocks) if kind == Kind.STORED else b""
        event = KvEvent(1, kind, pack_hashes(blocks), tokens, parent if kind == Kind.STORED else None)
        apply_event(index, event)
        oracle.apply(event)
    assert index.find_matches([0, 1, 2])[9, 0] == 3
    apply_event(index, KvEvent(1, Kind.CLEARED))
    assert index.workers() == {(1, 0): 0, (9, 0): 3}
    apply_event(index, KvEvent(9, Kind.WORKER_REMOVED))
    assert index.blocks_held == 0
    assert not index.forest.runs


def test_a_lower_tier_counts_where_the_tier_above_it_ends() -> None:
    index = KvIndex()
    tokens, blocks = list(range(8)), list(range(100, 108))

    def put(tier: Tier, first: int, last: int, parent: int | None) -> None:
        named = pack_hashes(blocks[first:last]), pack_hashes(tokens[first:last])
        apply_event(index, KvEvent(1, Kind.STORED, *named, parent, tier=tier))

    put(Tier.DEVICE, 0, 3, None)
    put(Tier.HOST_PINNED, 3, 5, 102)
    put(Tier.DISK, 5, 8, 104)
    put(Tier.HOST_PINNED, 6, 7, 105)
    assert index.find_tier_matches(tokens) == {(1, 0): (3, 2, 3)}
    apply_event(index, KvEvent(1, Kind.REMOVED, pack_hashes([104]), tier=Tier.HOST_PINNED))
    assert index.find_tier_matches(tokens) == {(1, 0): (3, 1, 0)}


def test_the_better_of_two_domains_of_a_rank_counts() -> None:
    index = KvIndex()
    for domain, length in ((Domain.WORKER, 2), (Domain.CACHE_OWNER, 3)):
        blocks = pack_hashes(range(length))
        apply_event(index, KvEvent(1, Kind.STORED, blocks, blocks, domain=domain))
    assert index.find_matches([0, 1, 2, 3]) == {(1, 0): 3}
