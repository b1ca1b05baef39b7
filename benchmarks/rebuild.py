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
RUNS = 3


async def write(url: str, records: list[Record]) -> None:
    """The log as a fleet leaves it."""
    async with dynlog.open_log(url) as log:
        await log.create_topic(TOPIC, partitions=4)
        async with dynlog.Producer(log, TOPIC) as producer:
            for record in records:
                await producer.submit(record)


def measure(kind: str, place: str, pinned: str, runs: int) -> float:
    """Median seconds."""
    taken = []
    for _ in range(runs):
        command = [sys.executable, "-m", "benchmarks.rebuild_child", kind, place, pinned]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken.append(float(json.loads(done.stdout)["seconds"]))
    return statistics.median(taken)


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
            best = measure("theirs", theirs, "pinned", runs)
            for mode in ("pinned", "free"):
                peer = best if mode == "pinned" else measure("theirs", theirs, "free", runs)
                seconds = measure("ours", url, mode, runs)
                rows.append(
                    Row(
                        name=f"rebuild {workload.name}, {mode}",
                        value=operations / seconds / 1e6,
                        unit="M block ops/s",
                        peer=operations / best / 1e6,
                        required=">= 1x",
                        note=f"{len(events)} events, {operations} ops; RadixTree {mode} {operations / peer / 1e6:.2f}; "
                        f"peer is its best case (pinned); aim {AIM[workload.name]}x",
                    )
                )
    return rows
