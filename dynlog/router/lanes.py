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
from collections.abc import Iterable
from itertools import repeat
from typing import NamedTuple

from dynlog.kvevents import Domain, Tier
from dynlog.router.runs import Run

_LITTLE = sys.byteorder == "little"
_SPOT_BITS = 16
_PATIENCE = 1_000  # runs that a lane may search before its traffic has paid for any
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

    ``runs`` are the numbers of the runs of which it holds something, in the order in which it came to do so, and
    ``held`` is how many blocks that is.  All dictionaries hold plain integers, out of the garbage collector's sight.
    """

    __slots__ = ("_crowded", "_hints", "_patience", "_where", "held", "key", "number", "runs")

    def __init__(self, number: int, key: LaneKey) -> None:
        self.number = number
        self.key = key
        self.held = 0
        self.runs: dict[int, None] = {}
        self._hints: dict[int, int] = {}
        self._where: dict[int, int] | None = None  # block hash -> run number, of every block, once indexed
        self._patience = _PATIENCE
        self._crowded = 256

    def find(self, table: dict[int, Run], block_hash: int, block: bytes) -> tuple[Run, int] | None:
        """Run and offset of the block (given as integer and packed), or None if the lane does not hold it."""
        spot = self._hints.get(block_hash)
        if spot is not None:
            run = table.get(spot >> _SPOT_BITS)
            offset = spot & (1 << _SPOT_BITS) - 1
            if run is not None and run.hashes[8 * offset : 8 * offset + 8] == block:
                prefix = run.holders.get(self.number)
                if prefix is not None and (prefix > offset or run.held(self.number) >> offset & 1):
                    return run, offset
            del self._hints[block_hash]
        if self._where is None:
            if self._patience >= 0:
                return self._search(table, block_hash, block)
            self._index(table)
        assert self._where is not None
        number = self._where.get(block_hash)
        if number is None or (run := table.get(number)) is None:
            return None
        offset = run.find(block, self.number)
        return (run, offset) if offset >= 0 else None

    def hint(self, block_hash: int, run: Run, offset: int) -> None:
        """An event began or ended at this block, so the next may name it."""
        if self._where is None:
            hints = self._hints
            hints[block_hash] = run.number << _SPOT_BITS | offset
            if len(hints) > self._crowded:
                runs = self.runs
                self._hints = {key: spot for key, spot in hints.items() if spot >> _SPOT_BITS in runs}
                self._crowded = 2 * len(self._hints) + 256

    def gain(self, run: Run, blocks: bytes) -> None:
        """The lane has come to hold these blocks of the run."""
        count = len(blocks) >> 3
        self.held += count
        self.runs[run.number] = None
        if self._where is not None:
            self._where.update(zip(unpack(blocks), repeat(run.number)))
        elif self._patience < _MAX_PATIENCE:
            self._patience += count

    def lose(self, run: Run, count: int, blocks: bytes) -> None:
        """The lane no longer holds these ``count`` blocks of the run, in whatever order."""
        self.held -= count
        if run.number not in self.runs:
            return
        if self.number not in run.holders:
            del self.runs[run.number]
        if self._where is not None:
            deque(map(self._where.pop, unpack(blocks), repeat(None)), 0)

    def forget(self) -> None:
        """The lane holds nothing any more."""
        self.held = 0
        self.runs = {}
        self._hints = {}
        self._where = None
        self._patience = _PATIENCE

    def _search(self, table: dict[int, Run], block_hash: int, block: bytes) -> tuple[Run, int] | None:
        for searched, number in enumerate(reversed(self.runs), 1):
            run = table[number]
            offset = run.find(block, self.number)
            if offset >= 0:
                self._patience -= searched
                self.hint(block_hash, run, offset)
                return run, offset
        self._patience -= len(self.runs)
        return None

    def _index(self, table: dict[int, Run]) -> None:
        self._hints = {}
        where: dict[int, int] = {}
        self._where = where
        for number in self.runs:
            run = table[number]
            prefix = run.holders[self.number]
            where.update(zip(unpack(run.hashes[: 8 * prefix]), repeat(number)))
            if run.gaps and (beyond := run.gaps.get(self.number)):
                where.update(zip(select(run.hashes, beyond), repeat(number)))


class Rank:
    """The lanes of one `WorkerRank`, and the id of its last event."""

    __slots__ = ("key", "lanes", "last_event_id")

    def __init__(self, key: WorkerRank) -> None:
        self.key = key
        self.lanes: dict[tuple[int, int], Lane] = {}
        self.last_event_id: int | None = None

    def find(self, table: dict[int, Run], block_hash: int, block: bytes, first: Lane) -> tuple[Run, int] | None:
        """Where the rank holds the block: in lane ``first`` if it does there, else in the highest tier."""
        found = first.find(table, block_hash, block)
        if found is None and len(self.lanes) > 1:
            for slot in sorted(self.lanes):
                if self.lanes[slot] is not first and (found := self.lanes[slot].find(table, block_hash, block)):
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


def select(packed: bytes, bits: int) -> list[int]:
    """The hashes whose bits are set, in order."""
    chosen, hashes = [], unpack(packed)
    while bits:
        low = bits & -bits
        chosen.append(hashes[low.bit_length() - 1])
        bits ^= low
    return chosen
