"""(a) Rebuilding a KV router from its SQLite log, against ai-dynamo-runtime's Rust RadixTree fed the same events.

Not like for like, and the table says so: RadixTree parses JSON and each call hops to a thread of its own, ours reads a
columnar log from disk.  A user gets what is measured; the reason is format and runs, not Python.  One event is one
record here, as a live fleet writes them; the log is in the page cache in both cases.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import dynlog
from benchmarks.report import Row
from benchmarks.workloads import WORKLOADS, block_ops, records_of, router_event_json
from dynlog.record import Record

TOPIC = "kv-events"
AIM = {"A": 1.5, "B": 1.5, "C": 3.0, "D": 3.0}
RUNS = 9
"""Theirs and ours take turns, so that an hour's noise on the machine falls on both; a median of each counts."""


async def write(url: str, records: list[Record]) -> None:
    """The log as a fleet leaves it."""
    async with dynlog.open_log(url) as log:
        await log.create_topic(TOPIC, partitions=4)
        async with dynlog.Producer(log, TOPIC) as producer:
            for record in records:
                await producer.submit(record)


def measure(kind: str, place: str, mode: str) -> float:
    """Seconds, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rebuild_child", kind, place, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["seconds"])


def in_turns(runs: int, places: dict[str, str]) -> dict[tuple[str, str], float]:
    """Median seconds of theirs and ours, pinned and free."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for mode in ("pinned", "free"):
            for kind, place in places.items():
                taken.setdefault((kind, mode), []).append(measure(kind, place, mode))
    return {which: statistics.median(seconds) for which, seconds in taken.items()}


def run(quick: bool) -> list[Row]:
    """Rows for the four workloads, pinned to one core and free on all."""
    rows = []
    runs = 1 if quick else RUNS
    for workload in WORKLOADS[:1] if quick else WORKLOADS:
        events = workload.events()
        operations = block_ops(events)
        with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
            url, theirs = f"sqlite://{folder}/events.db", f"{folder}/events.pickle"
            asyncio.run(write(url, records_of(events)))
            Path(theirs).write_bytes(pickle.dumps([(e.worker_id, router_event_json(e)) for e in events]))
            taken = in_turns(runs, {"theirs": theirs, "ours": url})
            best = taken["theirs", "pinned"]
            rows += [
                Row(
                    name=f"rebuild {workload.name}, {mode}",
                    value=operations / taken["ours", mode] / 1e6,
                    unit="M block ops/s",
                    peer=operations / best / 1e6,
                    required=">= 1x",
                    note=f"{len(events)} events, {operations} ops; RadixTree {mode} "
                    f"{operations / taken['theirs', mode] / 1e6:.2f}; peer is its best case (pinned); "
                    f"aim {AIM[workload.name]}x",
                )
                for mode in ("pinned", "free")
            ]
    return rows
