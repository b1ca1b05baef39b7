"""Shapes of traffic that an index of runs finds hard: each was once slow, or quadratic."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from dynlog.kvevents import Kind, KvEvent, pack_hashes

Shape = tuple[str, list[KvEvent]]


def _chains(worker: int, chains: int, length: int, salt: int = 0) -> list[list[tuple[int, int]]]:
    rng = random.Random(worker * 1_000_003 + salt)
    return [[(rng.getrandbits(64), rng.getrandbits(64)) for _ in range(length)] for _ in range(chains)]


def _stored(worker: int, pairs: Sequence[tuple[int, int]], parent: int | None = None) -> KvEvent:
    tokens, blocks = zip(*pairs, strict=True)
    return KvEvent(worker, Kind.STORED, pack_hashes(blocks), pack_hashes(tokens), parent)


def _removed(worker: int, blocks: Sequence[int]) -> KvEvent:
    return KvEvent(worker, Kind.REMOVED, pack_hashes(blocks))


def shapes(size: int) -> Iterator[Shape]:
    """Each shape with about ``size`` block operations."""
    rng = random.Random(7)
    length = 100
    chains = _chains(1, max(1, size // 200), length)
    stores = [_stored(1, chain) for chain in chains]
    blocks = [block for chain in chains for _, block in chain]
    mixed = rng.sample(blocks, len(blocks))
    yield "shuffled removals", stores + [_removed(1, mixed[at : at + 100]) for at in range(0, len(mixed), 100)]
    yield (
        "one removed event per block",
        stores + [_removed(1, [block]) for chain in chains for _, block in reversed(chain)],
    )
    yield "one removed event per block, shuffled", stores + [_removed(1, [block]) for block in mixed]
    yield (
        "unknown removals",
        stores + [_removed(1, [rng.getrandbits(64) for _ in range(100)]) for _ in range(len(blocks) // 100)],
    )
    yield (
        "single-block events",
        [
            event
            for chain in _chains(2, max(1, size // 200), length)
            for event in (
                *(_stored(2, [pair], chain[at - 1][1] if at else None) for at, pair in enumerate(chain)),
                *(_removed(2, [block]) for _, block in reversed(chain)),
            )
        ],
    )
    (chain,) = _chains(3, 1, size)
    yield (
        "one chain growing block by block",
        [_stored(3, [pair], chain[at - 1][1] if at else None) for at, pair in enumerate(chain)],
    )
    yield (
        "one chain growing 16 blocks at a time",
        [_stored(3, chain[at : at + 16], chain[at - 1][1] if at else None) for at in range(0, len(chain), 16)],
    )
    same = _chains(4, max(1, size // 1600), length)
    yield (
        "16 workers, other block hashes for the same tokens",
        [
            _stored(worker, [(tokens, block ^ (worker << 32)) for tokens, block in chain])
            for chain in same
            for worker in range(16)
        ],
    )
    yield (
        "two hash spaces in one worker",
        [
            _stored(5, [(tokens, block ^ salt) for tokens, block in chain])
            for chain in _chains(5, max(1, size // 200), length)
            for salt in (0, 1 << 40)
        ],
    )
    holes = [event for chain in chains for event in (_stored(1, chain), _removed(1, [b for _, b in chain[40:60]]))]
    refills = [_stored(1, chain[40:60], chain[39][1]) for chain in chains]
    yield "gaps in every chain, filled again", holes + refills
    yield (
        "cleared again and again",
        [
            event
            for at in range(0, len(stores), 20)
            for event in (*stores[at : at + 20], KvEvent(1, Kind.CLEARED), *stores[at : at + 20])
        ],
    )
    yield (
        "every block moves to another path",
        stores + [_stored(1, [(tokens ^ 1, block) for tokens, block in chain]) for chain in chains],
    )
    short = _chains(6, max(1, size // 2), 1)
    yield (
        "single-block chains under one root block",
        [
            _stored(6, [(1, 1)]),
            *(_stored(6, chain, 1) for chain in short),
            *(_removed(6, [chain[0][1]]) for chain in short),
        ],
    )
