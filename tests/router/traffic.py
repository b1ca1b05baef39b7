"""Random traffic that an engine could produce: gaps, refills, several hash spaces, tiers, clears, repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator

from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes
from tests.router.oracle import LaneName, Oracle, Path

Pairs = list[tuple[int, int]]


class Traffic:
    """Draws events, each of which keeps what engines promise: while a rank holds a hash, it names one path.

    ``lasting`` makes hashes name one path for ever, as chained hashes do; without it a hash may come back elsewhere
    once nobody holds it.
    """

    def __init__(self, seed: int, *, lasting: bool = False) -> None:
        self.random = random.Random(seed)
        self.oracle = Oracle()
        self._hashes = self.random.choice([12, 40, 200, 5000])
        self._tokens = self.random.choice([2, 3, 8, 100])
        self._lasting = lasting
        self._named: dict[tuple[int, int, int], Path] = {}

    def events(self, count: int) -> Iterator[KvEvent]:
        """At most ``count`` events; the oracle has folded each when it is given."""
        for _ in range(count):
            event = self._draw()
            if self.oracle.promised(event) and (not self._lasting or self._lasts(event)):
                self.oracle.apply(event)
                yield event

    def query(self) -> list[int]:
        """Some prompt's tokens hashes, mostly of a path that somebody holds."""
        paths = self._paths()
        if paths and self.random.random() < 0.8:
            return [tokens for tokens, _ in self.random.choice(paths)] + self._some_tokens(1)
        return self._some_tokens(6)

    def _some_tokens(self, most: int) -> list[int]:
        return [self.random.randrange(self._tokens) for _ in range(self.random.randrange(most + 1))]

    def _paths(self) -> list[Path]:
        return [path for blocks in self.oracle.held.values() for path in blocks.values()]

    def _draw(self) -> KvEvent:
        rng = self.random
        worker, rank, event_id = rng.randrange(3), int(rng.random() < 0.15), rng.randrange(5)
        tier, domain = Tier(rng.choice([0, 0, 0, 0, 1, 2])), Domain(rng.random() < 0.1)
        chance = rng.random()
        if chance < 0.02:
            return KvEvent(worker, Kind.WORKER_REMOVED)
        if chance < 0.04:
            return KvEvent(worker, Kind.CLEARED, dp_rank=rank, event_id=event_id)
        lane = (worker, rank, int(tier), int(domain))
        if chance < 0.36:
            removed = pack_hashes(self._removal(lane))
            return KvEvent(worker, Kind.REMOVED, removed, b"", None, rank, event_id, tier, domain)
        parent, pairs = self._store(lane)
        blocks, tokens = pack_hashes(block for _, block in pairs), pack_hashes(token for token, _ in pairs)
        return KvEvent(worker, Kind.STORED, blocks, tokens, parent, rank, event_id, tier, domain)

    def _removal(self, lane: LaneName) -> list[int]:
        rng, held = self.random, self.oracle.held.get(lane, {})
        count = rng.randrange(1, 6)
        if not held or rng.random() < 0.2:
            return [rng.randrange(self._hashes) for _ in range(count)]
        chain = [block for _, block in held[rng.choice(list(held))]]
        way = rng.random()
        if way < 0.5:
            chain.reverse()  # as engines do, from the tail
        elif way < 0.7:
            rng.shuffle(chain)
        return chain[:count]

    def _store(self, lane: LaneName) -> tuple[int | None, Pairs]:
        rng, paths = self.random, self._paths()
        if paths and rng.random() < 0.5:  # some other lane's path, or one's own again
            path = rng.choice(paths)
            at = rng.randrange(len(path))
            return (path[at - 1][1] if at else None), [*path[at:], *self._pairs(rng.randrange(4))]
        known = [block for name, held in self.oracle.held.items() if name[:2] == lane[:2] for block in held]
        parent = rng.choice(known) if known and rng.random() < 0.8 else None
        return (rng.randrange(self._hashes) if rng.random() < 0.05 else parent), self._pairs(rng.randrange(1, 9))

    def _pairs(self, count: int) -> Pairs:
        hashes = [self.random.randrange(self._hashes) for _ in range(count)]
        return [(block % self._tokens if self.random.random() < 0.7 else block // 2 % 7, block) for block in hashes]

    def _lasts(self, event: KvEvent) -> bool:
        after = Oracle()
        after.held = {name: dict(blocks) for name, blocks in self.oracle.held.items()}
        after.apply(event)
        named = dict(self._named)
        for name, blocks in after.held.items():
            for path in blocks.values():
                for at, (_, block) in enumerate(path):
                    if named.setdefault((*name[:2], block), path[: at + 1]) != path[: at + 1]:
                        return False
        self._named = named
        return True
