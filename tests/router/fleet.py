"""A small fleet for tests of the router: its events, and a fold of plain dictionaries that shares no code with ours."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dynlog import Log, Producer
from dynlog.kvevents import Kind, KvEvent, encode_events, pack_hashes, unpack_hashes

TOPIC = "kv-events"
Block = tuple[int, int, int | None, int]
"""(worker_id, block_hash, parent_hash, tokens_hash)."""


def fleet(seed: int, *, workers: int = 4, steps: int = 400) -> list[KvEvent]:
    """Chains stored and removed tail first, clears, and workers that go away; every block_hash names one path."""
    rng = random.Random(seed)
    held: dict[int, list[list[int]]] = {worker: [] for worker in range(1, workers + 1)}
    events: list[KvEvent] = []
    for step in range(steps):
        worker = rng.randrange(1, workers + 1)
        chains = held[worker]
        choice = rng.random()
        if choice < 0.6 or not chains:
            blocks = [rng.getrandbits(63) for _ in range(rng.randrange(1, 12))]
            chain = rng.choice(chains) if chains and rng.random() < 0.4 else []
            parent = chain[-1] if chain else None
            tokens = pack_hashes(block ^ 0xFFFF for block in blocks)
            events.append(KvEvent(worker, Kind.STORED, pack_hashes(blocks), tokens, parent, event_id=step))
            chains.append(chain + blocks) if chain == [] else chain.extend(blocks)
        elif choice < 0.95:
            chain = rng.choice(chains)
            gone = [chain.pop() for _ in range(rng.randrange(1, len(chain) + 1))]
            events.append(KvEvent(worker, Kind.REMOVED, pack_hashes(gone), event_id=step))
            held[worker] = [c for c in chains if c]
        else:
            events.append(KvEvent(worker, Kind.CLEARED if choice < 0.98 else Kind.WORKER_REMOVED, event_id=step))
            held[worker] = []
    return events


def fold(events: Iterable[KvEvent]) -> set[Block]:
    """What the fleet holds."""
    held: dict[int, dict[int, tuple[int | None, int]]] = {}
    for event in events:
        blocks = held.setdefault(event.worker_id, {})
        if event.kind == Kind.STORED:
            parent = event.parent_hash
            for block, token in zip(unpack_hashes(event.block_hashes), unpack_hashes(event.tokens_hashes), strict=True):
                blocks[block] = (parent, token)
                parent = block
        elif event.kind == Kind.REMOVED:
            for block in unpack_hashes(event.block_hashes):
                blocks.pop(block, None)
        else:
            blocks.clear()
    return {(worker, block, *place) for worker, blocks in held.items() for block, place in blocks.items()}


def blocks_of(dump: Iterable[dict[str, Any]]) -> Iterator[Block]:
    """The blocks of a dump without gaps."""
    for entry in dump:
        stored = entry["event"]["data"]["stored"]
        parent = stored["parent_hash"]
        for block in stored["blocks"]:
            yield entry["worker_id"], block["block_hash"], parent, block["tokens_hash"]
            parent = block["block_hash"]


async def publish(log: Log, events: Sequence[KvEvent]) -> None:
    """Every event a record, all durable on return."""
    async with Producer(log, TOPIC) as producer:
        for event in events:
            await producer.submit(encode_events([event]))
