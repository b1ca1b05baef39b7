"""Matching a prompt against the tree: one pass over the runs of its path."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dynlog.errors import MalformedEvent
from dynlog.kvevents import Tier
from dynlog.router.lanes import Rank, WorkerRank
from dynlog.router.runs import Branch, Run

FIRST_LOOK = 64
"""So many of a prompt's hashes are packed at first, and more only as far as it is known: packing costs the most."""
KEPT = 256
"""First runs whose outcome is remembered; about one for each way in which prompts begin."""


class TierHits(NamedTuple):
    """Blocks of a prompt that a rank holds: ``device`` from its start, then ``host``, then ``disk`` going on."""

    device: int
    host: int
    disk: int


class _Top(NamedTuple):
    """The outcome of a path's first run: by lane and by rank, as long as ``holders`` hold it as they did."""

    holders: dict[int, int]
    found: dict[int, int]
    ranks: dict[WorkerRank, int]


class Matcher:
    """Finds what each lane of one tier holds of a prompt; ``names`` are the tier's lanes.

    Nearly all prompts of a service begin alike, in a run that nearly every lane holds.  So the outcome of the first
    run is kept, and used again after one comparison of dictionaries; only the few lanes that go on are walked.
    """

    def __init__(self, names: dict[int, WorkerRank]) -> None:
        self._names = names
        self._tops: dict[tuple[int, int], _Top] = {}

    def find(self, root: Run, prompt: Sequence[int] | bytes) -> dict[WorkerRank, int]:
        """The length of the prefix of the prompt's tokens hashes that each rank holds, if any."""
        names = self._names
        if isinstance(prompt, bytes):
            query, size = prompt, len(prompt)
        else:
            query, size = pack_prompt(prompt[:FIRST_LOOK]), 8 * len(prompt)
        branch = root.children.get(0, _NONE).get(query[:8]) if root.children else None
        if branch is None:
            return {}
        if isinstance(branch, dict) or branch.forks:
            return self._named(_match_forks(root, _packed(prompt)))
        run = branch
        base = agreed(run, query, 0)
        while len(query) == 8 * base < size:
            query += pack_prompt(prompt[base : 8 * base])
            base = agreed(run, query, 0)
        top = self._tops.get((run.number, base))
        if top is None or top.holders != run.holders:
            top = self._top(run, base)
        longer: dict[int, int] = {}
        through, at = top.found, base
        while run.children and (branch := run.children.get(at, _NONE).get(query[8 * base : 8 * base + 8])) is not None:
            if isinstance(branch, dict) or branch.forks:
                return self._named(_match_forks(root, _packed(prompt)))
            run = branch
            if query.startswith(run.tokens, 8 * base):
                at = len(run.tokens) >> 3
            else:
                at = agreed(run, query, base)
            while len(query) == 8 * (base + at) < size:
                query += pack_prompt(prompt[base + at : 8 * (base + at)])
                at = agreed(run, query, base)
            here = {
                lane: base + (prefix if prefix < at else at)
                for lane, prefix in run.holders.items()
                if prefix and through.get(lane) == base
            }
            if not here:
                break
            longer.update(here)
            through = here
            base += at
        ranks = top.ranks.copy()
        for lane, length in longer.items():
            name = names[lane]
            if length > ranks.get(name, 0):  # a rank's blocks of one tier may lie in two domains
                ranks[name] = length
        return ranks

    def _top(self, run: Run, at: int) -> _Top:
        names = self._names
        found = {
            lane: prefix if prefix < at else at for lane, prefix in run.holders.items() if prefix and lane in names
        }
        if len(self._tops) >= KEPT:
            self._tops.clear()
        top = self._tops[run.number, at] = _Top(run.holders.copy(), found, self._named(found))
        return top

    def _named(self, found: dict[int, int]) -> dict[WorkerRank, int]:
        """By rank, the longest match of its lanes."""
        ranks: dict[WorkerRank, int] = {}
        for lane, length in found.items():
            name = self._names.get(lane)
            if name is not None and length > ranks.get(name, 0):
                ranks[name] = length
        return ranks


_NONE: dict[bytes, Branch] = {}


def agreed(run: Run, query: bytes, base: int) -> int:
    """How many blocks of the run, which begins at block ``base`` of the query, have the query's tokens."""
    tokens = run.tokens
    if query.startswith(tokens, 8 * base):
        return len(tokens) >> 3
    low, step = 1, 1  # the first block agrees: it was looked up by its tokens
    high = min(len(tokens), len(query) - 8 * base) >> 3
    while low + step <= high and query.startswith(tokens[8 * low : 8 * (low + step)], 8 * (base + low)):
        low += step
        step *= 2
    high = min(high, low + step - 1)
    while low < high:
        middle = (low + high + 1) // 2
        if query.startswith(tokens[8 * low : 8 * middle], 8 * (base + low)):
            low = middle
        else:
            high = middle - 1
    return low


def _branches(run: Run, at: int, token: bytes) -> Iterator[Run]:
    branch = run.children.get(at, _NONE).get(token) if run.children else None
    if isinstance(branch, dict):
        yield from branch.values()
    elif branch is not None:
        yield branch


def _match_forks(root: Run, query: bytes) -> dict[int, int]:
    """As `match`, by lane, where paths of the same tokens differ in their block hashes: a lane's longest one counts."""
    found: dict[int, int] = {}
    waiting: list[tuple[Run, int, set[int] | None]] = [(run, 0, None) for run in _branches(root, 0, query[:8])]
    while waiting:
        run, base, through = waiting.pop()
        here = {lane: prefix for lane, prefix in run.holders.items() if prefix and (through is None or lane in through)}
        if not here:
            continue
        at = agreed(run, query, base)
        for lane, prefix in here.items():
            found[lane] = max(found.get(lane, 0), base + min(prefix, at))
        for leave in run.children or ():
            if leave <= at and (
                below := list(_branches(run, leave, query[8 * (base + leave) : 8 * (base + leave) + 8]))
            ):
                onward = {lane for lane, prefix in here.items() if prefix >= leave}
                if onward:
                    waiting += [(child, base + leave, onward) for child in below]
    return found


def pack_prompt(tokens_hashes: Sequence[int]) -> bytes:
    """A prompt's tokens hashes as packed u64; raises MalformedEvent for what is none.

    ``struct`` packs a thousand in 14 us, ``array`` in 23.
    """
    try:
        return struct.pack(f"<{len(tokens_hashes)}Q", *tokens_hashes)
    except struct.error as error:
        raise MalformedEvent(f"a tokens hash is an integer from 0 to 2^64-1: {error}") from None


def _packed(prompt: Sequence[int] | bytes) -> bytes:
    return prompt if isinstance(prompt, bytes) else pack_prompt(prompt)


def best_only(found: dict[WorkerRank, int]) -> dict[WorkerRank, int]:
    """The ranks of the longest match."""
    best = max(found.values(), default=0)
    return {rank: length for rank, length in found.items() if length == best}


def paths(root: Run, query: bytes) -> Iterator[list[tuple[Run, int, int]]]:
    """Every way through the tree by the query's tokens: (run, its first block's depth, blocks of it), to its end."""
    waiting: list[list[tuple[Run, int, int]]] = [[(run, 0, 0)] for run in _branches(root, 0, query[:8])]
    while waiting:
        path = waiting.pop()
        run, base, _ = path[-1]
        at = agreed(run, query, base)
        yield [*path[:-1], (run, base, at)]
        for leave in run.children or ():
            if leave <= at:
                below = _branches(run, leave, query[8 * (base + leave) : 8 * (base + leave) + 8])
                waiting += [[*path[:-1], (run, base, leave), (child, base + leave, 0)] for child in below]


def match_tiers(
    root: Run, prompt: Sequence[int] | bytes, ranks: Mapping[WorkerRank, Rank]
) -> dict[WorkerRank, TierHits]:
    """Each rank's hits by tier; where block hashes differ, those of the best single path (device first)."""
    best: dict[WorkerRank, TierHits] = {}
    for path in paths(root, _packed(prompt)):
        masks: dict[int, int] = {}
        for run, base, count in path:
            for number in run.holders:
                masks[number] = masks.get(number, 0) | (run.held(number) & ((1 << count) - 1)) << base
        for key, rank in ranks.items():
            by_tier = [0] * len(Tier)
            for (slot, _), lane in rank.lanes.items():
                by_tier[slot] |= masks.get(lane.number, 0)
            depth, hits = 0, []
            for mask in by_tier[:3]:
                rest = mask >> depth
                length = (~rest & (rest + 1)).bit_length() - 1
                hits.append(length)
                depth += length
            if depth:
                best[key] = max(best.get(key, TierHits(0, 0, 0)), TierHits(*hits))
    return best
