"""The index's rules one by one, where Dynamo's RadixTree is known to go wrong."""

from __future__ import annotations

from dynlog.kvevents import Kind, KvEvent, pack_hashes
from dynlog.router.counters import Outcome
from dynlog.router.fold import apply_event
from dynlog.router.index import KvIndex

TOKENS = [10, 11, 12, 13, 14, 15]
BLOCKS = [90, 91, 92, 93, 94, 95]


def stored(worker: int, blocks: list[int], tokens: list[int], parent: int | None = None, rank: int = 0) -> KvEvent:
    return KvEvent(worker, Kind.STORED, pack_hashes(blocks), pack_hashes(tokens), parent, rank)


def removed(worker: int, blocks: list[int]) -> KvEvent:
    return KvEvent(worker, Kind.REMOVED, pack_hashes(blocks))


def index_of(*events: KvEvent) -> KvIndex:
    index = KvIndex()
    for event in events:
        apply_event(index, event)
    return index


def test_what_hangs_behind_a_gap_is_not_matched_but_still_held_and_removable() -> None:
    index = index_of(stored(1, BLOCKS, TOKENS), removed(1, [92]))
    assert index.find_matches(TOKENS) == {(1, 0): 2}
    assert index.blocks_held == 5
    apply_event(index, removed(1, [95, 94]))
    assert index.blocks_held == 3
    assert index.counters.blocks_unknown == 0


def test_a_gap_that_is_filled_again_shows_what_hangs_behind_it() -> None:
    index = index_of(stored(1, BLOCKS, TOKENS), removed(1, [92]), stored(1, [92], [12], 91))
    assert index.find_matches(TOKENS) == {(1, 0): 6}


def test_an_orphan_is_accepted_as_a_parent() -> None:
    index = index_of(stored(1, BLOCKS, TOKENS), removed(1, [92]))
    assert apply_event(index, stored(1, [96], [16], 95)) is Outcome.APPLIED
    apply_event(index, stored(1, [92], [12], 91))
    assert index.find_matches([*TOKENS, 16]) == {(1, 0): 7}


def test_another_worker_that_keeps_a_block_alive_does_not_revive_descendants() -> None:
    index = index_of(stored(1, BLOCKS, TOKENS), stored(2, BLOCKS[:3], TOKENS[:3]), removed(1, BLOCKS[:1]))
    assert index.find_matches(TOKENS) == {(2, 0): 3}


def test_a_parent_that_only_another_worker_or_rank_holds_is_unknown() -> None:
    index = index_of(stored(1, BLOCKS, TOKENS))
    assert apply_event(index, stored(2, [96], [16], 95)) is Outcome.UNKNOWN_PARENT
    assert apply_event(index, stored(1, [96], [16], 95, rank=1)) is Outcome.UNKNOWN_PARENT
    assert index.counters.unknown_parents == 2
    assert index.blocks_held == 6


def test_a_block_that_is_its_own_parent_is_refused_whole() -> None:
    index = index_of(stored(1, [90], [10]))
    assert apply_event(index, stored(1, [91, 90], [11, 10], 90)) is Outcome.MALFORMED
    assert index.blocks_held == 1


def test_workers_with_other_block_hashes_for_the_same_tokens_do_not_meet() -> None:
    other = [block + 1000 for block in BLOCKS]
    index = index_of(stored(1, BLOCKS, TOKENS), stored(2, other, TOKENS), removed(2, other[4:]))
    assert index.find_matches(TOKENS) == {(1, 0): 6, (2, 0): 4}
    apply_event(index, removed(1, BLOCKS))
    assert index.find_matches(TOKENS) == {(2, 0): 4}


def test_two_hash_spaces_of_one_worker_count_apart_and_the_longer_one_matches() -> None:
    other = [block + 1000 for block in BLOCKS]
    index = index_of(stored(1, BLOCKS[:4], TOKENS[:4]), stored(1, other, TOKENS))
    assert index.find_matches(TOKENS) == {(1, 0): 6}
    apply_event(index, removed(1, other[:1]))
    assert index.find_matches(TOKENS) == {(1, 0): 4}
    assert index.blocks_held == 9


def test_repeats_and_gaps_of_event_ids_are_counted_and_change_nothing() -> None:
    events = [
        KvEvent(1, Kind.STORED, pack_hashes([block]), pack_hashes([block]), event_id=event_id)
        for block, event_id in ((1, 5), (2, 6), (3, 6), (4, 9), (5, 0), (6, 1))
    ]
    index = index_of(*events)
    assert (index.counters.event_id_repeats, index.counters.event_id_gaps) == (2, 1)
    assert index.blocks_held == 6


def test_removing_a_worker_removes_all_its_ranks_and_clearing_only_one() -> None:
    index = index_of(*(stored(worker, BLOCKS, TOKENS, rank=rank) for worker in (1, 2) for rank in (0, 1)))
    apply_event(index, KvEvent(1, Kind.CLEARED, dp_rank=1))
    assert index.workers() == {(1, 0): 6, (1, 1): 0, (2, 0): 6, (2, 1): 6}
    apply_event(index, KvEvent(2, Kind.WORKER_REMOVED))
    assert index.workers() == {(1, 0): 6, (1, 1): 0}
    index.clear()
    assert index.find_matches(TOKENS) == {}
    assert not index.forest.runs
