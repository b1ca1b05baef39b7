"""Cost: four times the traffic costs about four times as much, whatever its shape."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from itertools import groupby

import pytest

from dynlog.kvevents import KvEvent, encode_events
from dynlog.router.fold import fold_records
from dynlog.router.index import KvIndex
from tests.router.shapes import shapes

NAMES = [name for name, _ in shapes(400)]


def neighbours(events: list[KvEvent], most: int) -> Iterator[list[KvEvent]]:
    """Groups of at most so many events of one worker that follow one another: what goes into one record."""
    for _, group in groupby(events, key=lambda event: event.worker_id):
        same = list(group)
        for at in range(0, len(same), most):
            yield same[at : at + most]


def seconds(events: list[KvEvent], per_record: int) -> float:
    records = [encode_events(group) for group in neighbours(events, per_record)]
    keys = [record.key for record in records]
    bodies = [[bytes(part) for part in record.parts] for record in records]
    best = float("inf")
    for _ in range(3):
        index = KvIndex()
        gc.collect()
        begun = time.process_time()
        fold_records(index, keys, bodies)
        best = min(best, time.process_time() - begun)
    return best


@pytest.mark.parametrize("per_record", [1, 64])
@pytest.mark.parametrize("name", NAMES)
def test_four_times_the_events_cost_less_than_eight_times_as_much(name: str, per_record: int) -> None:
    small, large = (dict(shapes(size))[name] for size in (8_000, 32_000))
    assert seconds(large, per_record) < 8 * seconds(small, per_record) + 0.005
