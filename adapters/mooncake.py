"""The Mooncake trace as the KV events of a fleet: the same trace, workers and capacity give the same events, always.

A line is one request, ``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}``; a hash id names
a block of 512 tokens *and* all that precedes it (kvcache-ai/Mooncake, FAST'25).  Requests go to the workers in turn.
A worker keeps its blocks least recently used first, the tail of a chain before its head, as engines do, and says
``removed`` for what falls out before it says ``stored`` for what is new.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from dynlog.errors import MalformedEvent
from dynlog.hashing import SEED, next_sequence_hash
from dynlog.kvevents import U64_MAX, Kind, KvEvent, pack_hashes

BLOCK_TOKENS = 512


class Request(NamedTuple):
    """One request of the trace; ``hash_ids`` are prefix ids of blocks of 512 tokens, the root first."""

    timestamp_ms: int
    hash_ids: tuple[int, ...]


class Block(NamedTuple):
    """One block of the fleet: what it holds, and the engine's chain hash of it and all before it."""

    tokens_hash: int
    block_hash: int


def read_trace(path: Path) -> Iterator[Request]:
    """The requests of a trace file (JSON lines, plain or gzip), in order.

    Raises MalformedEvent naming the file and the line of the first one that is not a request, and OSError if the file
    cannot be read.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise MalformedEvent(f"{path}:{number + 1}: the compressed file is damaged or cut: {error}") from None


def _parse(line: bytes, place: str) -> Request:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MalformedEvent(f"{place}: not JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("hash_ids"), list):
        raise MalformedEvent(f"{place}: a request needs a list 'hash_ids'")
    ids, timestamp = fields["hash_ids"], fields.get("timestamp", 0)
    if any(type(name) is not int or not 0 <= name <= U64_MAX for name in ids):
        raise MalformedEvent(f"{place}: a hash id is an integer from 0 to 2^64-1")
    if len(set(ids)) != len(ids):
        raise MalformedEvent(f"{place}: a hash id occurs twice, so a block would be its own ancestor")
    if type(timestamp) not in (int, float):
        raise MalformedEvent(f"{place}: 'timestamp' is a number of milliseconds")
    return Request(int(timestamp), tuple(ids))


class Chains:
    """Names the blocks of hash ids: one id under one parent is one block, split into ``split`` equal parts."""

    def __init__(self, split: int = 1) -> None:
        if split < 1:
            raise ValueError(f"a block is split into at least one part, not {split}")
        self.split = split
        self._parts: dict[tuple[int | None, int], tuple[Block, ...]] = {}

    def of(self, request: Request) -> list[Block]:
        """The request's blocks, the root first."""
        chain: list[Block] = []
        for name in request.hash_ids:
            parent = chain[-1].block_hash if chain else None
            parts = self._parts.get((parent, name))
            if parts is None:
                parts = self._parts[parent, name] = self._make(parent, name)
            chain.extend(parts)
        return chain

    def _make(self, parent: int | None, name: int) -> tuple[Block, ...]:
        made = []
        for part in range(self.split):
            tokens_hash = xxhash.xxh3_64_intdigest(b"%d.%d/%d" % (name, part, self.split), seed=SEED)
            parent = next_sequence_hash(parent, tokens_hash)
            made.append(Block(tokens_hash, parent))
        return tuple(made)


class Worker:
    """One engine's cache of at most ``capacity`` blocks."""

    def __init__(self, worker_id: int, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a worker holds at least one block, not {capacity}")
        self.worker_id = worker_id
        self.capacity = capacity
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._events = 0

    def serve(self, chain: list[Block]) -> Iterator[KvEvent]:
        """Handles one request; what does not fit into the worker at all is not cached."""
        chain = chain[: self.capacity]
        cached = self._cached
        hits = 0
        while hits < len(chain) and chain[hits].block_hash in cached:
            hits += 1
        for block in reversed(chain):  # the head last, so that it outlives its tail
            cached[block.block_hash] = None
            cached.move_to_end(block.block_hash)
        evicted = [cached.popitem(last=False)[0] for _ in range(len(cached) - self.capacity)]
        if evicted:
            yield self._event(Kind.REMOVED, pack_hashes(evicted))
        new = chain[hits:]
        if new:
            yield self._event(
                Kind.STORED,
                pack_hashes(block.block_hash for block in new),
                pack_hashes(block.tokens_hash for block in new),
                chain[hits - 1].block_hash if hits else None,
            )

    def _event(self, kind: Kind, blocks: bytes, tokens: bytes = b"", parent: int | None = None) -> KvEvent:
        event_id = self._events
        self._events += 1
        return KvEvent(self.worker_id, kind, blocks, tokens, parent, event_id=event_id)


def fleet_events(
    requests: Iterable[Request], *, workers: int, capacity: int, split: int = 1, first_worker_id: int = 0
) -> Iterator[KvEvent]:
    """The events of ``workers`` engines of ``capacity`` blocks each that serve the requests in turn; deterministic.

    ``split`` cuts every block of the trace into that many blocks (so capacity counts the small ones).
    """
    if workers < 1:
        raise ValueError(f"a fleet has at least one worker, not {workers}")
    chains = Chains(split)
    fleet = [Worker(first_worker_id + number, capacity) for number in range(workers)]
    for number, request in enumerate(requests):
        yield from fleet[number % workers].serve(chains.of(request))
