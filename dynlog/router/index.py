"""The KV index: exactly the blocks that the events say are held, each on the path on which it was stored.

The rules, which ``tests/router/oracle.py`` states once more by brute force:

- A *lane* is (worker_id, dp_rank, tier, domain).  A stored block's position is fixed then: the path of (tokens_hash,
  block_hash) pairs that its parent had.  A parent counts if any lane of the rank holds it.
- A store under a parent that the rank does not hold is refused, and so is one in which the parent occurs again; each
  is counted and stores nothing.
- Removing a block leaves those behind it as orphans: not matched, but removable, good as parents, and matched again
  once the gap is stored again.
- While a lane holds a block hash, that hash names one path: this is what an engine promises with a chained hash, and
  what makes a removal mean one block.  The index does not pay for policing it; events that break it are folded
  without harm to any other block, and CLEARED or WORKER_REMOVED ends whatever they left.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from dynlog.kvevents import Domain, Tier
from dynlog.router.counters import Counters, Outcome
from dynlog.router.lanes import Lane, LaneKey, Rank, WorkerRank, pack, select, unpack
from dynlog.router.matching import TierHits, best_only, match, match_tiers
from dynlog.router.runs import Forest, Run, common, common_end


class KvIndex:
    """Who holds which blocks; every operation costs time linear in the blocks that it names, whatever the traffic."""

    def __init__(self) -> None:
        self.forest = Forest()
        self.ranks: dict[WorkerRank, Rank] = {}
        self.lanes: dict[int, Lane] = {}
        self.next_lane = 0
        self.counters = Counters()

    # --- what events do ---------------------------------------------------------------------------------------------

    def store(self, lane: Lane, rank: Rank, parent: int | None, blocks: bytes, tokens: bytes) -> Outcome:
        """The lane now holds ``blocks`` one behind another, the first behind ``parent`` (None: at the root).

        ``blocks`` and ``tokens`` are packed u64 of the same length, at least one.
        """
        forest = self.forest
        run, at = forest.root, 0
        if parent is not None:
            packed = parent.to_bytes(8, "little")
            found = rank.find(forest.runs, parent, packed, lane)
            if found is None:
                self.counters.unknown_parents += 1
                return Outcome.UNKNOWN_PARENT
            if packed in blocks and parent in unpack(blocks):
                self.counters.malformed += 1
                return Outcome.MALFORMED
            run, at = found[0], found[1] + 1
        number, image, count = lane.number, forest.image, 0
        size = len(blocks) >> 3
        pieces = forest.place(run, at, tokens, blocks)
        for run, start, length, first in pieces:
            prefix = run.holders.get(number)
            end = start + length
            if prefix is not None and prefix >= end:
                continue
            if image is not None:
                image.keep(run)
            if not run.gaps and (prefix or 0) == start:
                run.holders[number] = end
                count += length
                lane.gain(run, blocks if length == size else blocks[8 * first : 8 * (first + length)])
                continue
            held = run.held(number)
            new = ((1 << length) - 1 << start) & ~held
            if new:
                run.hold(number, held | new)
                named = pack(select(run.hashes, new))
                count += len(named) >> 3
                lane.gain(run, named)
        lane.hint(int.from_bytes(blocks[-8:], "little"), run, end - 1)
        self.counters.blocks_stored += count
        self.counters.blocks_repeated += size - count
        return Outcome.APPLIED

    def remove(self, lane: Lane, blocks: bytes) -> None:
        """The lane no longer holds ``blocks``; those that it does not hold are counted."""
        forest, number = self.forest, lane.number
        table, image = forest.runs, forest.image
        backward = array("Q", blocks)[::-1].tobytes()
        index, count, removed = 0, len(blocks) >> 3, 0
        run, offset = forest.root, -1
        while index < count:
            block = blocks[8 * index : 8 * index + 8]
            # Engines drop a chain from its tail: after the head of a run comes the block that precedes it.
            if (
                offset < 0
                or number not in run.holders
                or run.hashes[8 * offset : 8 * offset + 8] != block
                or not (run.holders[number] > offset or run.held(number) >> offset & 1)
            ):
                found = lane.find(table, int.from_bytes(block, "little"), block)
                if found is None:
                    offset = -1
                    index += 1
                    continue
                run, offset = found
            if image is not None:
                image.keep(run)
            prefix = run.holders[number]
            taken = min(offset + 1, count - index)
            start = offset + 1 - taken
            stretch = backward[8 * (count - index - taken) : 8 * (count - index)]
            if prefix == offset + 1 and not run.gaps and run.hashes.startswith(stretch, 8 * start):
                if start:
                    run.holders[number] = start
                else:
                    del run.holders[number]
            else:
                held = run.held(number)
                start, taken = _stretch(run, offset, blocks, backward, index)
                gone = ((1 << taken) - 1 << start) & held
                stretch = run.hashes[8 * start : 8 * (start + taken)]
                if gone != (1 << taken) - 1 << start:  # a block that is not held breaks the stretch
                    start, taken, gone, stretch = offset, 1, 1 << offset, block
                run.hold(number, held & ~gone)
            lane.lose(run, taken, stretch)
            index += taken
            removed += taken
            above, before = (run, start - 1) if start else (run.parent or forest.root, run.at - 1)
            if not run.holders or 8 * (start + taken) >= len(run.hashes) or not start:
                forest.prune(run)
            run, offset = above, before
        if offset >= 0 and number in run.holders:
            lane.hint(int.from_bytes(run.hashes[8 * offset : 8 * offset + 8], "little"), run, offset)
        self.counters.blocks_removed += removed
        self.counters.blocks_unknown += count - removed

    def clear_rank(self, key: WorkerRank) -> None:
        """The rank holds nothing any more, in no tier."""
        rank = self.ranks.get(key)
        for lane in rank.lanes.values() if rank else ():
            for name in reversed(lane.runs):
                run = self.forest.runs[name]
                if self.forest.image is not None:
                    self.forest.image.keep(run)
                run.hold(lane.number, 0)
                self.forest.prune(run)
            lane.forget()

    def remove_worker(self, worker_id: int) -> None:
        """The worker is gone: no rank of it, no block, and no memory of its event ids."""
        for key in [key for key in self.ranks if key[0] == worker_id]:
            self.clear_rank(key)
            for lane in self.ranks.pop(key).lanes.values():
                del self.lanes[lane.number]

    def clear(self) -> None:
        """Nothing is held by anybody; counters and event ids stay."""
        for key in self.ranks:
            self.clear_rank(key)

    # --- lanes ------------------------------------------------------------------------------------------------------

    def rank(self, worker_id: int, dp_rank: int) -> Rank:
        """The rank of that name, made if it is new."""
        key = worker_id, dp_rank
        rank = self.ranks.get(key)
        if rank is None:
            rank = self.ranks[key] = Rank(key)
        return rank

    def lane(self, rank: Rank, tier: int, domain: int) -> Lane:
        """The lane of that rank and memory, made if it is new."""
        lane = rank.lanes.get((tier, domain))
        if lane is None:
            lane = Lane(self.next_lane, LaneKey(*rank.key, Tier(tier), Domain(domain)))
            self.next_lane += 1
            rank.lanes[tier, domain] = self.lanes[lane.number] = lane
        return lane

    # --- what a router asks -----------------------------------------------------------------------------------------

    def find_matches(
        self, tokens_hashes: Sequence[int] | bytes, *, tier: Tier = Tier.DEVICE, early_exit: bool = False
    ) -> dict[WorkerRank, int]:
        """How many blocks of the prompt, from its start and without a gap, each rank holds in that tier.

        ``tokens_hashes`` are integers or packed little-endian u64.  Ranks that hold none are absent.  With
        ``early_exit`` the ranks of the longest match are there, all of them, each with its exact length, and the
        others are left out; it never under-reports.
        """
        found = match(self.forest.root, pack(tokens_hashes), self.lanes, tier)
        return best_only(found) if early_exit else found

    def find_tier_matches(self, tokens_hashes: Sequence[int] | bytes) -> dict[WorkerRank, TierHits]:
        """Each rank's blocks of the prompt by tier, a lower tier going on where the one above it ends."""
        return match_tiers(self.forest.root, pack(tokens_hashes), self.ranks)

    def workers(self) -> dict[WorkerRank, int]:
        """Every known rank and how many blocks it holds, over all tiers; ranks that hold none included."""
        return {key: sum(lane.held for lane in rank.lanes.values()) for key, rank in self.ranks.items()}

    @property
    def blocks_held(self) -> int:
        """How many (lane, block) pairs are held."""
        return sum(lane.held for lane in self.lanes.values())


def _stretch(run: Run, offset: int, blocks: bytes, backward: bytes, index: int) -> tuple[int, int]:
    """First block and length of what the blocks from ``index`` on name of the run, from ``offset`` either way."""
    count = len(blocks) >> 3
    if index + 1 == count:
        return offset, 1
    follows = blocks[8 * index + 8 : 8 * index + 16]
    if offset and run.hashes.startswith(follows, 8 * offset - 8):
        most = min(offset + 1, count - index)
        here = run.hashes[8 * (offset + 1 - most) : 8 * (offset + 1)]
        length = common_end(here, backward[8 * (count - index - most) : 8 * (count - index)])
        return offset + 1 - length, length
    if run.hashes.startswith(follows, 8 * offset + 8):
        most = min(len(run) - offset, count - index)
        return offset, common(run.hashes[8 * offset : 8 * (offset + most)], blocks[8 * index : 8 * (index + most)])
    return offset, 1
