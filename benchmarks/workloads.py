"""The four workloads of the comparison with Dynamo's RadixTree.

A to D come from the conversation trace: A is 8 and B 64 workers of 2,000 blocks over the whole trace; C is 8 and D 64
workers of 16,000 blocks with every block of the trace split into 8, over its first 4,000 and 6,000 requests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dynlog.adapters.mooncake import Chains, fleet_events, read_trace
from dynlog.kvevents import Kind, KvEvent, encode_events, unpack_hashes
from dynlog.record import Record

SHARED = Path(os.environ.get("DYNLOG_SHARED") or Path(__file__).parents[1].parent / "shared")
TRACE = SHARED / "data" / "mooncake_conversation_trace.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Workload:
    """A fleet of ``workers`` with ``capacity`` blocks each that serves the first ``requests`` of the trace."""

    name: str
    workers: int
    capacity: int
    split: int = 1
    requests: int | None = None

    def events(self) -> list[KvEvent]:
        """What the fleet says."""
        requests = islice(read_trace(TRACE), self.requests)
        return list(fleet_events(requests, workers=self.workers, capacity=self.capacity, split=self.split))

    def queries(self) -> list[list[int]]:
        """The tokens hashes of every request."""
        chains = Chains(self.split)
        requests = islice(read_trace(TRACE), self.requests)
        return [[block.tokens_hash for block in chains.of(request)] for request in requests]


WORKLOADS = (
    Workload("A", 8, 2_000),
    Workload("B", 64, 2_000),
    Workload("C", 8, 16_000, 8, 4_000),
    Workload("D", 64, 16_000, 8, 6_000),
)


def block_ops(events: Sequence[KvEvent]) -> int:
    """How many blocks the events store and remove."""
    return sum(len(event.block_hashes) >> 3 for event in events)


def records_of(events: Sequence[KvEvent], *, per_record: int = 1) -> list[Record]:
    """The events as records, at most ``per_record`` neighbours of one worker in each."""
    records, group = [], [events[0]]
    for event in events[1:]:
        if event.worker_id == group[0].worker_id and len(group) < per_record:
            group.append(event)
        else:
            records.append(encode_events(group))
            group = [event]
    return [*records, encode_events(group)]


def router_event_json(event: KvEvent) -> bytes:
    """The inner event as Dynamo's JSON, which is what RadixTree takes."""
    blocks = list(unpack_hashes(event.block_hashes))
    data: object
    if event.kind == Kind.STORED:
        pairs = zip(blocks, unpack_hashes(event.tokens_hashes), strict=True)
        named = [{"block_hash": block, "tokens_hash": tokens} for block, tokens in pairs]
        data = {"stored": {"parent_hash": event.parent_hash, "blocks": named}}
    elif event.kind == Kind.REMOVED:
        data = {"removed": {"block_hashes": blocks}}
    else:
        data = "cleared"
    return json.dumps({"event_id": event.event_id, "data": data, "dp_rank": event.dp_rank}).encode()
