"""Matching a prompt against the tree: one pass over the runs of its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dynlog.kvevents import Tier
from dynlog.router.lanes import Rank, WorkerRank
from dynlog.router.runs import Branch, Run


class TierHits(NamedTuple):
    """Blocks of a prompt that a rank holds: ``device`` from its start, then ``host``, then ``disk`` going on."""

    device: int
    host: int
    disk: int


def match(root: Run, query: bytes) -> dict[int, int]:
    """The length of the prefix of ``query`` (packed tokens hashes) that each lane holds, by lane number, if any."""
    found: dict[int, int] = {}
    run, at, base = root, 0, 0
    while True:
        branch = run.children.get(at, _NONE).get(query[8 * base : 8 * base + 8]) if run.children else None
        if branch is None:
            return found
        if isinstance(branch, dict) or branch.forks:
            return _match_forks(root, query)
        run = branch
        at = agreed(run, query, base)
        if base:
            going = False
            for lane, prefix in run.holders.items():
                if prefix and found.get(lane) == base:
                    found[lane] = base + (prefix if prefix < at else at)
                    going = True
            if not going:
                return found
        elif not run.holders:
            return found
        elif min(run.holders.values()) >= at:
            found = dict.fromkeys(run.holders, at)
        else:
            found = {lane: prefix if prefix < at else at for lane, prefix in run.holders.items() if prefix}
        base += at


_NONE: dict[bytes, Branch] = {}


def agreed(run: Run, query: bytes, base: int) -> int:
    """How many blocks of the run, which begins at block ``base`` of the query, have the query's tokens."""
    tokens = run.tokens
    if query.startswith(tokens, 8 * base):
        return len(tokens) >> 3
    low, high = (
        1,
        min(len(tokens), len(query) - 8 * base) >> 3,
    )  # the first block agrees: it was looked up by its tokens
    step = 1
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


def match_tiers(root: Run, query: bytes, ranks: Mapping[WorkerRank, Rank]) -> dict[WorkerRank, TierHits]:
    """Each rank's hits by tier; where block hashes differ, those of the best single path (device first)."""
    best: dict[WorkerRank, TierHits] = {}
    for path in paths(root, query):
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
