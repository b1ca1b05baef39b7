"""(a, b, g) The KV index alone: folding records already read, finding prefixes, cost by size, hard shapes of traffic.

Beside it ai-dynamo-runtime's Rust RadixTree on the same events and queries, in turn with ours, both on one core.  Not
like for like, as `rebuild` says: RadixTree parses JSON and each of its calls hops to a thread of its own.  Rows without
a peer are CPU time, so that a busy machine does not show in them.
"""

from __future__ import annotations

import gc
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.report import Row
from benchmarks.workloads import WORKLOADS, Workload, block_ops, records_of, router_event_json
from dynlog.kvevents import Kind, KvEvent, pack_hashes, unpack_hashes
from dynlog.record import Record
from dynlog.router.fold import fold_records
from dynlog.router.index import KvIndex
from tests.router.shapes import shapes

FIND_US = {"A": (8.7, 17), "B": (16.4, 26), "C": (13.7, 45), "D": (19.4, 51)}  # p50, p99 that were promised
ROUNDS = 5
Batch = tuple[list[bytes | None], list[list[bytes]]]


def batches(records: Sequence[Record], size: int = 256) -> list[Batch]:
    """The columns of batches, as a reader gives them."""
    keys = [record.key for record in records]
    bodies = [[bytes(part) for part in record.parts] for record in records]
    return [(keys[at : at + size], bodies[at : at + size]) for at in range(0, len(keys), size)]


def folded(source: Sequence[Batch]) -> KvIndex:
    """An index that holds what the batches say."""
    index = KvIndex()
    for keys, bodies in source:
        fold_records(index, keys, bodies)
    return index


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call by the clock; the benchmark's own objects are kept out of the garbage collector's way."""
    gc.collect()
    gc.freeze()
    begun = clock()
    action()
    return clock() - begun


def percentiles(find: Callable[[list[int]], object], queries: Sequence[list[int]], tries: int) -> tuple[float, float]:
    """p50 and p99 of one find, in microseconds; of several tries of a prompt, one behind another, the best counts."""
    taken = []
    for query in queries:
        best = 1 << 60
        for _ in range(tries):
            begun = time.perf_counter_ns()
            find(query)
            best = min(best, time.perf_counter_ns() - begun)
        taken.append(best)
    taken.sort()
    return taken[len(taken) // 2] / 1000, taken[len(taken) * 99 // 100] / 1000


def workload_rows(workload: Workload, rounds: int) -> Iterator[Row]:
    """Folding and finding on one workload, ours and theirs in turn."""
    from dynamo.llm import RadixTree

    events = workload.events()
    operations, source = block_ops(events), batches(records_of(events))
    theirs_fed = [(event.worker_id, router_event_json(event)) for event in events]

    def fill() -> RadixTree:
        tree = RadixTree()
        for worker_id, event in theirs_fed:
            tree.apply_event(worker_id, event)
        return tree

    ours = theirs = float("inf")
    for _ in range(rounds):
        ours = min(ours, seconds(partial(folded, source)))
        theirs = min(theirs, seconds(fill))
    yield Row(
        f"fold {workload.name}", operations / ours / 1e6, "M blocks/s", operations / theirs / 1e6, ">= 1x",
        "records in memory; theirs: JSON bytes in memory",
    )  # fmt: skip
    index, tree, queries = folded(source), fill(), workload.queries()
    for tries, note in ((3, "best of three tries of each prompt"), (1, "each prompt once, caches cold")):
        runs = [
            (percentiles(index.find_matches, queries, tries), percentiles(tree.find_matches, queries, tries))
            for _ in range(rounds)
        ]
        for nth, name in enumerate(("p50", "p99")):
            mine, peer = min(run[0][nth] for run in runs), min(run[1][nth] for run in runs)
            # The bounds are RadixTree's figures of old, which it reaches again with warm caches and not with cold ones.
            bound = f"<= {FIND_US[workload.name][nth]}" if tries > 1 else ""
            yield Row(f"find {workload.name} {name}{'' if tries > 1 else ', cold'}", mine, "us", peer, bound, note)


def chains(blocks: int, length: int = 100) -> list[KvEvent]:
    """As many blocks on 64 workers, in chains of which a quarter is shared by two workers."""
    rng = random.Random(blocks)
    events: list[KvEvent] = []
    while len(events) * length < blocks:
        block_hashes, tokens = (pack_hashes(rng.getrandbits(64) for _ in range(length)) for _ in range(2))
        workers = rng.sample(range(64), 2 if rng.random() < 0.25 else 1)
        events += [KvEvent(worker, Kind.STORED, block_hashes, tokens) for worker in workers]
    return events


def size_rows(sizes: Sequence[int]) -> Iterator[Row]:
    """(g) Cost of folding and finding, and memory, by the number of (block, worker) pairs held."""
    for size in sizes:
        events = chains(size)
        source = batches(records_of(events))
        queries = [list(unpack_hashes(event.tokens_hashes)) for event in events[:: max(1, len(events) // 2000)]]
        taken = min(seconds(partial(folded, source), time.process_time) for _ in range(3))
        index = folded(source)
        yield Row(f"fold {size:,} pairs", taken / size * 1e9, "ns/block")
        yield Row(f"find in {size:,} pairs p50", percentiles(index.find_matches, queries, 1)[0], "us")
        del index
        if size <= 1_000_000:
            yield Row(f"memory at {size:,} pairs", _bytes_held(events) / size, "bytes/pair", None, "<= 150")


def _bytes_held(events: Sequence[KvEvent]) -> int:
    """What the index alone holds: every record is made for the fold and gone after it, as when a log is read."""
    gc.collect()
    tracemalloc.start()
    index = KvIndex()
    for event in events:
        (record,) = records_of([event])
        fold_records(index, [record.key], [[bytes(bytearray(part)) for part in record.parts]])  # copies: they count
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert index.blocks_held
    return held


def shape_rows(size: int, rounds: int) -> Iterator[Row]:
    """Shapes of traffic that an index of runs finds hard, at two sizes: the cost per block must not grow."""
    for (name, small), (_, large) in zip(shapes(size // 4), shapes(size), strict=True):
        cost = []
        for events in (small, large):
            source = batches(records_of(events))
            taken = min(seconds(partial(folded, source), time.process_time) for _ in range(rounds))
            cost.append(taken / block_ops(events))
        # Events of one block are told, not bounded; those that name neighbours are folded as one, the others are not.
        single = "single-block" in name or "block by block" in name or name.endswith("per block, shuffled")
        required = "" if single else ">= 1"
        growth = f"cost per block grows {cost[1] / cost[0]:.2f}x at 4x the size"
        yield Row(name, 1e-6 / cost[1], "M blocks/s", None, required, growth)


def run(quick: bool) -> list[Row]:
    """All rows, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        rounds = 1 if quick else ROUNDS
        rows = [row for workload in WORKLOADS[: 1 if quick else None] for row in workload_rows(workload, rounds)]
        rows += size_rows([10_000, 100_000] if quick else [10_000, 100_000, 1_000_000, 5_000_000])
        return rows + list(shape_rows(20_000 if quick else 200_000, rounds))
    finally:
        os.sched_setaffinity(0, cores)
