"""Who holds blocks, and how a lane finds one of its blocks by hash.

Nearly always an event names a block where some earlier event began or ended: those places are kept as *hints*, which
are verified before they are believed.  What no hint knows is searched in the lane's own runs, as long as the lane's
traffic pays for that; then every block of the lane is indexed, from then on.  So finding costs constant time per
block whatever the traffic, and ordinary traffic does not pay for an index of every block (which alone costs as much
as all the rest: hashing each block into a dictionary takes about 100 ns).
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from dynlog.kvevents import Domain, Tier
from dynlog.router.runs import Run

_LITTLE = sys.byteorder == "little"
SPOT_BITS = 16
SPOT_MASK = (1 << SPOT_BITS) - 1
_PATIENCE = 4_000  # searching one run costs four, storing one block pays one
_MAX_PATIENCE = 100_000

# (worker_id, dp_rank): a data-parallel rank of a worker, which is what a request is sent to.
WorkerRank = tuple[int, int]


class LaneKey(NamedTuple):
    """Whose blocks, and in which memory."""

    worker_id: int
    dp_rank: int
    tier: Tier
    domain: Domain


class Lane:
    """The blocks of one `LaneKey`; ``number`` stands for the lane inside runs.

    ``hints`` maps a packed block hash to ``run number << SPOT_BITS | offset``, which may be outdated.  ``where`` is
    None until every block is indexed; from then on it maps each held block hash to the same, and is exact.

    ``runs`` are the numbers of the runs of which it holds something, in the order in which it came to do so, and
    ``held`` is how many blocks that is.  All dictionaries hold plain integers, out of the garbage collector's sight.
    """

    __slots__ = ("crowded", "held", "hints", "key", "number", "patience", "runs", "where")

    def __init__(self, number: int, key: LaneKey) -> None:
        self.number = number
        self.key = key
        self.held = 0
        self.runs: dict[int, None] = {}
        self.hints: dict[bytes, int] = {}
        self.where: dict[int, int] | None = None
        self.patience = _PATIENCE
        self.crowded = 1024

    def find(self, table: dict[int, Run], block: bytes) -> tuple[Run, int] | None:
        """Run and offset of the block (a packed hash), or None if the lane does not hold it."""
        spot = self.hints.get(block)
        if spot is not None:
            run = table.get(spot >> SPOT_BITS)
            if run is not None:
                offset = spot & SPOT_MASK
                prefix = run.holders.get(self.number)
                if (
                    prefix is not None
                    and (prefix > offset or run.held(self.number) >> offset & 1)
                    and run.hashes.startswith(block, 8 * offset)
                ):
                    return run, offset
            del self.hints[block]
        if self.where is None:
            if self.patience >= 0:
                return self._search(table, block)
            self._index(table)
        assert self.where is not None
        spot = self.where.get(int.from_bytes(block, "little"))
        return None if spot is None else (table[spot >> SPOT_BITS], spot & SPOT_MASK)

    def hint(self, block: bytes, run: Run, offset: int) -> None:
        """An event began or ended at this block, so the next may name it."""
        if self.where is None:
            self.hints[block] = run.number << SPOT_BITS | offset
            if len(self.hints) > self.crowded:
                self.sift_hints()

    def sift_hints(self) -> None:
        """Forgets the hints to runs of which the lane holds nothing any more."""
        runs = self.runs
        self.hints = {key: spot for key, spot in self.hints.items() if spot >> SPOT_BITS in runs}
        self.crowded = 2 * len(self.hints) + 1024

    def gain(self, run: Run, offsets: Sequence[int], blocks: bytes) -> None:
        """The lane has come to hold these blocks of the run, which lie at these offsets."""
        self.held += len(offsets)
        self.runs[run.number] = None
        self.patience += len(offsets)
        if self.where is not None:
            self.where.update(zip(unpack(blocks), map((run.number << SPOT_BITS).__add__, offsets), strict=True))

    def unindex(self, blocks: bytes) -> None:
        """Takes blocks that the lane no longer holds out of its index of every block."""
        assert self.where is not None
        deque(map(self.where.pop, unpack(blocks), repeat(None)), 0)

    def forget(self) -> None:
        """The lane holds nothing any more."""
        self.held = 0
        self.runs = {}
        self.hints = {}
        self.where = None
        self.patience = _PATIENCE

    def _search(self, table: dict[int, Run], block: bytes) -> tuple[Run, int] | None:
        self.patience = min(self.patience, _MAX_PATIENCE)
        for searched, number in enumerate(reversed(self.runs), 1):
            run = table[number]
            if block in run.hashes and (offset := run.find(block, self.number)) >= 0:
                self.patience -= 4 * searched
                self.hint(block, run, offset)
                return run, offset
        self.patience -= 4 * len(self.runs)
        return None

    def _index(self, table: dict[int, Run]) -> None:
        self.hints = {}
        where: dict[int, int] = {}
        self.where = where
        for number in self.runs:
            run, base = table[number], number << SPOT_BITS
            prefix = run.holders[self.number]
            where.update(zip(unpack(run.hashes[: 8 * prefix]), range(base, base + prefix), strict=True))
            if run.gaps and (beyond := places(run.gaps.get(self.number, 0))):
                where.update((hashed, base + at) for hashed, at in zip(select(run.hashes, beyond), beyond, strict=True))


class Rank:
    """The lanes of one `WorkerRank`, and the id of its last event."""

    __slots__ = ("key", "lanes", "last_event_id")

    def __init__(self, key: WorkerRank) -> None:
        self.key = key
        self.lanes: dict[tuple[int, int], Lane] = {}
        self.last_event_id: int | None = None

    def find(self, table: dict[int, Run], block: bytes, first: Lane) -> tuple[Run, int] | None:
        """Where the rank holds the block: in lane ``first`` if it does there, else in the highest tier."""
        found = first.find(table, block)
        if found is None and len(self.lanes) > 1:
            for slot in sorted(self.lanes):
                if self.lanes[slot] is not first and (found := self.lanes[slot].find(table, block)):
                    break
        return found


def unpack(packed: bytes) -> list[int]:
    """The packed little-endian u64 as integers."""
    if _LITTLE:
        return memoryview(packed).cast("Q").tolist()
    column = array("Q", packed)
    column.byteswap()
    return column.tolist()


def pack(hashes: Iterable[int] | bytes) -> bytes:
    """Integers as packed little-endian u64; bytes as they are."""
    if isinstance(hashes, bytes):
        return hashes
    column = array("Q", hashes)
    if not _LITTLE:
        column.byteswap()
    return column.tobytes()


def places(bits: int) -> list[int]:
    """The offsets of the set bits, ascending."""
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found


def select(packed: bytes, offsets: Sequence[int]) -> list[int]:
    """The hashes at these offsets, in order."""
    hashes = unpack(packed)
    return [hashes[at] for at in offsets]
