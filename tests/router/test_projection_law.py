"""The projection's law: restore(snapshot(prefix)) + rest == fold(all), repeats and redelivery thrown in."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.errors import SnapshotCorrupt
from dynlog.kvevents import Kind, KvEvent, encode_events, pack_hashes
from dynlog.projection import Projection
from dynlog.record import Record
from dynlog.router.dump import dump_events
from dynlog.router.fold import apply_event
from dynlog.router.projection import RouterProjection
from tests.router.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Columns:
    """As much of a batch as the fold reads."""

    keys: Sequence[bytes | None]
    bodies: Sequence[Sequence[bytes]]


def columns(records: Sequence[Record]) -> Columns:
    return Columns([r.key for r in records], [[bytes(part) for part in r.parts] for r in records])


def state(projection: RouterProjection) -> str:
    counted = projection.index.counters.as_dict()
    workers = sorted(projection.index.workers().items())
    return json.dumps([counted, workers, list(dump_events(projection.index))])


def records_of(traffic: Traffic, count: int) -> list[Record]:
    """Random events, some records holding several of a worker, some repeated later by a redelivery."""
    records: list[Record] = []
    group: list[KvEvent] = []
    for event in traffic.events(count):
        if group and (event.worker_id != group[0].worker_id or traffic.random.random() < 0.5):
            records.append(encode_events(group))
            group = []
        group.append(event)
    return [*records, *([encode_events(group)] if group else [])]


def test_it_is_a_projection() -> None:
    assert isinstance(RouterProjection(), Projection)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), cut=st.floats(0, 1), steps=st.floats(0, 1))
def test_a_snapshot_of_a_prefix_and_the_rest_equal_the_fold_of_all(seed: int, cut: float, steps: float) -> None:
    rng = random.Random(seed)
    records = records_of(Traffic(seed, lasting=True), 120)
    at = int(cut * len(records))
    live, restored = RouterProjection(), RouterProjection()
    live.apply(columns(records[:at]))
    begun = live.snapshot()
    parts: list[bytes] = []
    for record in records[at:]:  # the fold goes on while the snapshot is being written
        if rng.random() < steps and (part := next(begun, None)) is not None:
            parts.append(part)
        live.apply(columns([record]))
    restored.restore([*parts, *begun])
    restored.apply(columns(records[at:]))
    assert state(restored) == state(live)
    again = records[max(0, at - 3) :]  # redelivered from before the cut
    for projection in (live, restored):
        projection.apply(columns(again))
    assert state(restored) == state(live)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_how_events_are_cut_into_records_and_batches_is_not_visible_in_the_state(seed: int) -> None:
    events = list(Traffic(seed, lasting=True).events(100))
    one_by_one, grouped = RouterProjection(), RouterProjection()
    for event in events:
        apply_event(one_by_one.index, event)
    grouped.apply(columns(records_of_events(events, random.Random(seed))))
    one_by_one.index.counters.records = grouped.index.counters.records
    assert state(grouped) == state(one_by_one)


def records_of_events(events: Sequence[KvEvent], rng: random.Random) -> list[Record]:
    groups: list[list[KvEvent]] = []
    for event in events:
        if groups and groups[-1][0].worker_id == event.worker_id and rng.random() < 0.6:
            groups[-1].append(event)
        else:
            groups.append([event])
    return [encode_events(group) for group in groups]


def test_single_block_events_that_continue_one_another_count_as_if_folded_alone() -> None:
    def one(block: int, parent: int | None, event_id: int) -> Record:
        packed = pack_hashes([block])
        return encode_events([KvEvent(1, Kind.STORED, packed, packed, parent, event_id=event_id)])

    projection = RouterProjection()
    records = [one(1, None, 0), one(2, 1, 1), one(2, 2, 2), one(3, 2, 3), one(9, 8, 4), one(4, 3, 9)]
    projection.apply(columns(records))
    counters = projection.index.counters
    assert projection.index.find_matches([1, 2, 3, 4]) == {(1, 0): 4}
    assert (counters.malformed, counters.unknown_parents, counters.event_id_gaps, counters.events) == (1, 1, 1, 6)


def test_malformed_records_are_counted_and_skipped_whole() -> None:
    good = encode_events([KvEvent(1, Kind.STORED, pack_hashes([1, 2, 3]), pack_hashes([1, 2, 3]))])
    assert good.key is not None
    heads, blocks, tokens = (bytes(part) for part in good.parts)
    bad: list[tuple[bytes | None, list[bytes]]] = [
        (None, [heads, blocks, tokens]),
        (b"short", [heads, blocks, tokens]),
        (good.key, [heads, blocks]),
        (good.key, [heads[:-1], blocks, tokens]),
        (good.key, [b"", b"", b""]),
        (good.key, [heads, blocks[:-8], tokens]),
        (good.key, [heads, blocks, tokens[:-1]]),
        (good.key, [b"\x09" + heads[1:], blocks, tokens]),
        (good.key, [heads[:1] + b"\x07" + heads[2:], blocks, tokens]),
        (good.key, [heads[:2] + b"\x02" + heads[3:], blocks, tokens]),
        (good.key, [heads * 2, blocks, tokens]),
    ]
    projection = RouterProjection()
    projection.apply(Columns([key for key, _ in bad], [body for _, body in bad]))
    assert projection.rejected == len(bad)
    assert projection.index.blocks_held == 0
    projection.apply(columns([good]))
    assert projection.index.blocks_held == 3


@pytest.fixture(scope="module")
def snapshot() -> list[bytes]:
    projection = RouterProjection()
    projection.apply(columns(records_of(Traffic(5), 150)))
    return list(projection.snapshot())


def test_every_flipped_byte_of_a_snapshot_is_refused_and_leaves_nothing_behind(snapshot: list[bytes]) -> None:
    projection = RouterProjection()
    for number, part in enumerate(snapshot):
        for at in range(0, len(part), 7):
            damaged = part[:at] + bytes([part[at] ^ 0x10]) + part[at + 1 :]
            with pytest.raises(SnapshotCorrupt):
                projection.restore([*snapshot[:number], damaged, *snapshot[number + 1 :]])
            assert projection.index.blocks_held == 0


def test_a_snapshot_that_is_cut_or_mixed_up_is_refused(snapshot: list[bytes]) -> None:
    assert len(snapshot) == 2
    for wrong in ([], snapshot[:1], snapshot[1:], snapshot[::-1], [*snapshot, snapshot[1]], [snapshot[0][:-9]]):
        with pytest.raises(SnapshotCorrupt):
            RouterProjection().restore(wrong)


def test_a_snapshot_begins_in_5_ms_and_goes_on_in_steps_of_10_ms() -> None:
    projection = RouterProjection()
    rng = random.Random(3)
    for worker in range(16):
        for _ in range(200):
            packed = pack_hashes(rng.getrandbits(64) for _ in range(100))
            apply_event(projection.index, KvEvent(worker, Kind.STORED, packed, packed))
    assert projection.index.blocks_held == 320_000
    gc.collect()
    gc.disable()  # the collector's pauses are not this code's
    try:
        begun = time.process_time()
        parts = projection.snapshot()
        beginning = time.process_time() - begun
        steps, sizes = [], []
        while True:
            begun = time.process_time()
            part = next(parts, None)
            steps.append(time.process_time() - begun)
            if part is None:
                break
            sizes.append(len(part))
    finally:
        gc.enable()
    assert beginning < 0.005
    assert max(steps) < 0.010
    assert max(sizes) < 300 << 10


def test_a_snapshot_that_nobody_finishes_costs_the_fold_nothing_afterwards() -> None:
    projection = RouterProjection()
    projection.apply(columns(records_of(Traffic(1), 50)))
    abandoned = projection.snapshot()
    del abandoned
    gc.collect()
    assert projection.index.forest.image is None
