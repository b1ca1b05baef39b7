"""The state in Dynamo's form: a list of RouterEvents in one canonical order, whatever history led to the state.

Lanes come in the order of their keys, and in each the paths depth first, continuations of a block in the order of
(tokens_hash, block_hash), a parent always before its children; event ids count from 0 in every rank.  What hangs
behind a gap is said with the gap filled in, followed by ``removed`` for the gap; trees with gaps come first.

One thing Dynamo's form cannot say: an orphan below a gap whose hash the lane now holds elsewhere in a tree that also
has gaps.  Snapshots carry that too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dynlog.errors import MalformedEvent
from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes
from dynlog.router.fold import apply_event
from dynlog.router.index import KvIndex
from dynlog.router.lanes import Lane, WorkerRank, unpack
from dynlog.router.runs import Run

EVENT_BLOCKS = 1024  # a stored event of the dump has at most so many


class _Spot(NamedTuple):
    """Where a path goes on: at a block of a run."""

    run: Run
    start: int

    @property
    def pair(self) -> tuple[int, int]:
        at = slice(8 * self.start, 8 * self.start + 8)
        return int.from_bytes(self.run.tokens[at], "little"), int.from_bytes(self.run.hashes[at], "little")


class _Chain(NamedTuple):
    parent: int | None
    tokens: list[int]
    hashes: list[int]


class _Tree:
    """The runs of a lane and all that lies between them and the root, and how far into each they need it."""

    def __init__(self, index: KvIndex, lane: Lane) -> None:
        self.lane = lane.number
        self.need: dict[Run, int] = {}
        self.gappy: set[Run] = set()  # runs at the root below which something is not held
        for number in lane.runs:
            run = index.forest.runs[number]
            size = run.held(self.lane).bit_length()
            while size > self.need.get(run, 0):
                self.need[run] = size
                assert run.parent is not None
                run, size = run.parent, run.at
        self.branches: dict[Run, dict[int, list[Run]]] = {}
        for run, size in self.need.items():
            assert run.parent is not None
            self.branches.setdefault(run.parent, {}).setdefault(run.at, []).append(run)
            if self._gaps(run, 0, size):
                top = run
                while top.parent is not None and top.parent is not index.forest.root:
                    top = top.parent
                self.gappy.add(top)
        self.root = index.forest.root

    def _gaps(self, run: Run, start: int, end: int) -> int:
        return ((1 << end) - (1 << start)) & ~run.held(self.lane)

    def tops(self) -> list[_Spot]:
        spots = [_Spot(run, 0) for run in self.branches.get(self.root, {}).get(0, ())]
        return sorted(spots, key=lambda spot: (spot.run not in self.gappy, spot.pair))

    def below(self, top: _Spot, missing: list[int]) -> Iterator[_Chain]:
        """The chains of one tree; the hashes of its gaps are added to ``missing``."""
        waiting: list[tuple[int | None, _Spot]] = [(None, top)]
        while waiting:
            parent, (run, start) = waiting.pop()
            chain = _Chain(parent, [], [])
            while True:
                branches = self.branches.get(run, {})
                end = min((at for at in branches if at > start), default=self.need[run])
                end = min(end, start + EVENT_BLOCKS - len(chain.hashes))
                hashes = unpack(run.hashes[8 * start : 8 * end])
                chain.tokens.extend(unpack(run.tokens[8 * start : 8 * end]))
                chain.hashes.extend(hashes)
                if gaps := self._gaps(run, start, end):
                    missing += [block for at, block in enumerate(hashes, start) if gaps >> at & 1]
                onward = [_Spot(child, 0) for child in branches.get(end, ())]
                if end < self.need[run]:
                    onward.append(_Spot(run, end))
                if len(onward) != 1 or len(chain.hashes) >= EVENT_BLOCKS:
                    break
                run, start = onward[0]
            yield chain
            waiting += [(chain.hashes[-1], spot) for spot in sorted(onward, key=lambda spot: spot.pair, reverse=True)]


def dump_events(index: KvIndex) -> Iterator[dict[str, Any]]:
    """The RouterEvents that rebuild the state, in the canonical order; equal states give equal lists.

    Each is a JSON-ready dictionary, its ``event`` what Dynamo's ``RadixTree.apply_event`` takes; ``storage_tier`` and
    ``residency_domain`` stand beside it where they are not ``device`` and ``worker``.  The index must not change
    while a lane is being written: take the list, or dump a restored snapshot.
    """
    ids: Counter[WorkerRank] = Counter()
    for lane in sorted(index.lanes.values(), key=lambda lane: lane.key):
        tree = _Tree(index, lane)
        for top in tree.tops():
            missing: list[int] = []
            for chain in tree.below(top, missing):
                pairs = zip(chain.hashes, chain.tokens, strict=True)
                blocks = [{"block_hash": block, "tokens_hash": tokens} for block, tokens in pairs]
                yield _router_event(lane, ids, {"stored": {"parent_hash": chain.parent, "blocks": blocks}})
            if missing:
                yield _router_event(lane, ids, {"removed": {"block_hashes": missing}})


def _router_event(lane: Lane, ids: Counter[WorkerRank], data: dict[str, Any]) -> dict[str, Any]:
    worker_id, dp_rank, tier, domain = lane.key
    event_id = ids[worker_id, dp_rank]
    ids[worker_id, dp_rank] += 1
    said: dict[str, Any] = {"worker_id": worker_id}
    if tier != Tier.DEVICE:
        said["storage_tier"] = tier.name.lower()
    if domain != Domain.WORKER:
        said["residency_domain"] = domain.name.lower()
    said["event"] = {"event_id": event_id, "data": data, "dp_rank": dp_rank}
    return said


def load_events(events: Iterable[Mapping[str, Any]]) -> KvIndex:
    """A new index from RouterEvents as `dump_events` and Dynamo's ``RadixTree`` dump them.

    Raises MalformedEvent for what is not such an event, and for one that the index refuses: a dump has its parents
    first.
    """
    index = KvIndex()
    for number, said in enumerate(events):
        try:
            event = _read(said)
        except (KeyError, TypeError, ValueError, AttributeError, MalformedEvent) as error:
            raise MalformedEvent(f"event {number} of the dump is not a RouterEvent: {error!r}") from None
        if outcome := apply_event(index, event):
            raise MalformedEvent(f"event {number} of the dump is refused: {outcome.name}")
    return index


def _read(said: Mapping[str, Any]) -> KvEvent:
    event = said["event"]
    data, blocks, tokens, parent = event["data"], b"", b"", None
    if data == "cleared":
        kind = Kind.CLEARED
    elif "stored" in data:
        kind, stored = Kind.STORED, data["stored"]
        blocks = pack_hashes(block["block_hash"] for block in stored["blocks"])
        tokens = pack_hashes(block["tokens_hash"] for block in stored["blocks"])
        parent = stored["parent_hash"]
    else:
        kind, blocks = Kind.REMOVED, pack_hashes(data["removed"]["block_hashes"])
    if parent is not None:
        pack_hashes([parent])
    return KvEvent(
        said["worker_id"],
        kind,
        blocks,
        tokens,
        parent,
        event.get("dp_rank", 0),
        event["event_id"],
        Tier[said.get("storage_tier", "device").upper()],
        Domain[said.get("residency_domain", "worker").upper()],
    )
