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
from itertools import repeat

from dynlog.kvevents import Domain, Tier
from dynlog.router.counters import Counters, Outcome
from dynlog.router.forest import MAX_RUN, Forest, Piece
from dynlog.router.lanes import SPOT_BITS, SPOT_MASK, Lane, LaneKey, Rank, WorkerRank, pack, places, select, unpack
from dynlog.router.matching import Matcher, TierHits, best_only, match_tiers
from dynlog.router.stretch import end_stretch


class KvIndex:
    """Who holds which blocks; every operation costs time linear in the blocks that it names, whatever the traffic."""

    def __init__(self) -> None:
        self.forest = Forest()
        self.ranks: dict[WorkerRank, Rank] = {}
        self.lanes: dict[int, Lane] = {}
        self.next_lane = 0
        self.counters = Counters()
        # (rank, lane, kind, has a parent) by a record's key and the first half of its head, as far as seen.
        self.known: dict[bytes, tuple[Rank, Lane, int, int]] = {}
        self._names: dict[int, dict[int, WorkerRank]] = {tier: {} for tier in Tier}
        self._matchers = {tier: Matcher(names) for tier, names in self._names.items()}

    # --- what events do ---------------------------------------------------------------------------------------------

    def store(self, lane: Lane, rank: Rank, parent: bytes | None, blocks: bytes, tokens: bytes) -> Outcome:
        """The lane now holds ``blocks`` one behind another, the first behind ``parent`` (None: at the root).

        ``blocks`` and ``tokens`` are packed u64 of the same length, at least one; ``parent`` is one packed u64.
        """
        forest, number = self.forest, lane.number
        table = forest.runs
        run, at = forest.root, 0
        if parent is not None:
            # Nearly always a hint knows the parent: `Lane.find` without the call.
            spot = lane.hints.get(parent, 0)
            hinted = table.get(spot >> SPOT_BITS)
            at = spot & SPOT_MASK
            if hinted is not None and hinted.holders.get(number, 0) > at and hinted.hashes.startswith(parent, 8 * at):
                run = hinted
            elif (found := rank.find(table, parent, lane)) is not None:
                run, at = found
            else:
                self.counters.unknown_parents += 1
                return Outcome.UNKNOWN_PARENT
            at += 1
            if parent in blocks and int.from_bytes(parent, "little") in unpack(blocks):
                self.counters.malformed += 1
                return Outcome.MALFORMED
        held = size = len(blocks) >> 3
        children = run.children
        if (
            size <= MAX_RUN
            and (children is None or (beside := children.get(at)) is None or tokens[:8] not in beside)
            and 8 * at != len(run.hashes) != 0
            and not run.hashes.startswith(blocks[:8], 8 * at)
            and lane.where is None
        ):
            # Nearly always nobody had this path and it branches off: `Forest.place` and `_hold` without the detours.
            run, start, length = forest.branch(run, at, tokens, blocks), 0, size
            run.holders[number] = size
            lane.held += size
            lane.runs[run.number] = None
            lane.patience += size
        else:
            pieces = forest.place(run, at, tokens, blocks)
            held = self._hold(lane, pieces, blocks)
            run, start, length, _ = pieces[-1]
        if lane.where is None:
            hints = lane.hints
            hints[blocks[-8:]] = run.number << SPOT_BITS | start + length - 1
            if len(hints) > lane.crowded:
                lane.sift_hints()
        self.counters.blocks_stored += held
        if held != size:
            self.counters.blocks_repeated += size - held
        return Outcome.APPLIED

    def _hold(self, lane: Lane, pieces: list[Piece], blocks: bytes) -> int:
        """The lane holds the pieces; how many of their blocks it did not hold before."""
        forest, number, held = self.forest, lane.number, 0
        for run, start, length, first in pieces:
            prefix = run.holders.get(number, 0)
            end = start + length
            if prefix >= end:
                continue
            if forest.image is not None:
                forest.image.keep(run)
            if prefix == start and run.gaps is None:
                run.holders[number] = end
                held += length
                if lane.where is not None:
                    lane.gain(run, range(start, end), blocks[8 * first : 8 * (first + length)])
                else:  # the same without the call
                    lane.held += length
                    lane.runs[run.number] = None
                    lane.patience += length
            elif new := ((1 << length) - 1 << start) & ~(before := run.held(number)):
                run.hold(number, before | new)
                offsets = places(new)
                held += len(offsets)
                lane.gain(run, offsets, pack(select(run.hashes, offsets)))
        return held

    def remove(self, lane: Lane, blocks: bytes) -> None:
        """The lane no longer holds ``blocks``; those that it does not hold are counted."""
        if (where := lane.where) is not None:
            self._remove_indexed(lane, where, blocks)
            return
        forest, number = self.forest, lane.number
        table, hints, image = forest.runs, lane.hints, forest.image
        backward = blocks if len(blocks) == 8 else array("Q", blocks)[::-1].tobytes()
        count = left = len(blocks) >> 3
        removed = 0
        run, offset = forest.root, -1  # where the next block is expected
        while left:
            at = 8 * (count - left)
            block = blocks[at : at + 8]
            spot = hints.get(block)
            if spot is not None and (hinted := table.get(spot >> SPOT_BITS)) is not None:
                run, offset = hinted, spot & SPOT_MASK
            # Engines drop a chain from its tail: what follows in the event precedes in the run.
            end = offset + 1
            taken = end if end < left else left
            start = end - taken
            holders = run.holders
            if (
                not end
                or holders.get(number) != end
                or run.gaps is not None
                or not run.hashes.startswith(backward[8 * (left - taken) : 8 * left], 8 * start)
            ):
                found = lane.find(table, block)
                if found is None:
                    offset = -1
                    left -= 1
                    continue
                run, offset = found
                holders = run.holders
                if image is not None:
                    image.keep(run)
                start, taken = end_stretch(run, number, offset, blocks, backward, count - left)
                end = start + taken
            else:
                if image is not None:
                    image.keep(run)
                if start:
                    holders[number] = start
                else:
                    del holders[number]
            if number not in holders:
                del lane.runs[run.number]
            if lane.where is not None:  # since a moment ago: what this event named was nowhere near
                lane.unindex(run.hashes[8 * start : 8 * end])
            left -= taken
            removed += taken
            emptied = run
            # After the head of a run comes the block that precedes it.
            if start:
                offset = start - 1
            elif run.parent is not None:
                run, offset = run.parent, run.at - 1
            if 8 * end == len(emptied.hashes) or not holders:
                forest.prune(emptied)
        if offset >= 0 and number in run.holders and lane.where is None:
            hints = lane.hints  # which a search may have replaced
            hints[run.hashes[8 * offset : 8 * offset + 8]] = run.number << SPOT_BITS | offset
            if len(hints) > lane.crowded:
                lane.sift_hints()
        lane.held -= removed
        self.counters.blocks_removed += removed
        if removed != count:
            self.counters.blocks_unknown += count - removed

    def _remove_indexed(self, lane: Lane, where: dict[int, int], blocks: bytes) -> None:
        """As `remove`, for traffic in no order: every block by itself."""
        table, number, image = self.forest.runs, lane.number, self.forest.image
        spots = list(map(where.pop, unpack(blocks), repeat(0)))
        for spot in spots:
            if not spot:
                continue
            run, offset = table[spot >> SPOT_BITS], spot & SPOT_MASK
            if image is not None:
                image.keep(run)
            if run.drop(number, offset):
                del lane.runs[run.number]
            if 8 * offset + 8 == len(run.hashes) or not run.holders:
                self.forest.prune(run)
        removed = len(spots) - spots.count(0)
        lane.held -= removed
        self.counters.blocks_removed += removed
        self.counters.blocks_unknown += len(spots) - removed

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
        self.known.clear()
        for key in [key for key in self.ranks if key[0] == worker_id]:
            self.clear_rank(key)
            for lane in self.ranks.pop(key).lanes.values():
                del self.lanes[lane.number], self._names[lane.key.tier][lane.number]

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
            lane = self.add_lane(rank, self.next_lane, tier, domain)
            self.next_lane += 1
        return lane

    def add_lane(self, rank: Rank, number: int, tier: int, domain: int) -> Lane:
        """A lane under a number that no other has or had."""
        lane = Lane(number, LaneKey(*rank.key, Tier(tier), Domain(domain)))
        rank.lanes[tier, domain] = self.lanes[number] = lane
        self._names[tier][number] = rank.key
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
        ranks = self._matchers[tier].find(self.forest.root, tokens_hashes)
        return best_only(ranks) if early_exit else ranks

    def find_tier_matches(self, tokens_hashes: Sequence[int] | bytes) -> dict[WorkerRank, TierHits]:
        """Each rank's blocks of the prompt by tier, a lower tier going on where the one above it ends."""
        return match_tiers(self.forest.root, tokens_hashes, self.ranks)

    def workers(self) -> dict[WorkerRank, int]:
        """Every known rank and how many blocks it holds, over all tiers; ranks that hold none included."""
        return {key: sum(lane.held for lane in rank.lanes.values()) for key, rank in self.ranks.items()}

    @property
    def blocks_held(self) -> int:
        """How many (lane, block) pairs are held."""
        return sum(lane.held for lane in self.lanes.values())
