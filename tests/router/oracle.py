"""The router's rules by brute force: every lane is a dictionary from block hash to the path on which it was stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dynlog.kvevents import Kind, KvEvent, Tier, unpack_hashes

Rank = tuple[int, int]
LaneName = tuple[int, int, int, int]
Path = tuple[tuple[int, int], ...]  # (tokens_hash, block_hash) from the root to the block itself


class Oracle:
    """What is held, and what was counted, after any events."""

    def __init__(self) -> None:
        self.held: dict[LaneName, dict[int, Path]] = {}
        self.last_event_id: dict[Rank, int] = {}
        self.counts: Counter[str] = Counter()

    def apply(self, event: KvEvent) -> None:
        rank = (event.worker_id, event.dp_rank)
        if event.kind == Kind.WORKER_REMOVED:
            self.counts["workers_removed"] += 1
            self.held = {name: blocks for name, blocks in self.held.items() if name[0] != event.worker_id}
            self.last_event_id = {r: last for r, last in self.last_event_id.items() if r[0] != event.worker_id}
            return
        last = self.last_event_id.get(rank)
        if last is not None and event.event_id != last + 1:
            self.counts["event_id_repeats" if event.event_id <= last else "event_id_gaps"] += 1
        self.last_event_id[rank] = event.event_id
        lane = (*rank, int(event.tier), int(event.domain))
        if event.kind == Kind.CLEARED:
            self.counts["cleared"] += 1
            self.held = {name: {} if name[:2] == rank else blocks for name, blocks in self.held.items()}
        elif event.kind == Kind.REMOVED:
            for block in unpack_hashes(event.block_hashes):
                known = self.held.setdefault(lane, {}).pop(block, None)
                self.counts["blocks_unknown" if known is None else "blocks_removed"] += 1
        else:
            self._store(lane, event)

    def _store(self, lane: LaneName, event: KvEvent) -> None:
        blocks = list(unpack_hashes(event.block_hashes))
        path: Path | None = ()
        if event.parent_hash is not None:
            others = sorted(name for name in self.held if name[:2] == lane[:2])
            holders = [name for name in [lane, *others] if event.parent_hash in self.held.get(name, {})]
            path = self.held[holders[0]][event.parent_hash] if holders else None
        if path is None:
            self.counts["unknown_parents"] += 1
        elif event.parent_hash in blocks:
            self.counts["malformed"] += 1
        else:
            mine = self.held.setdefault(lane, {})
            for tokens, block in zip(unpack_hashes(event.tokens_hashes), blocks, strict=True):
                path = (*path, (tokens, block))
                self.counts["blocks_repeated" if mine.get(block) == path else "blocks_stored"] += 1
                mine[block] = path

    def promised(self, event: KvEvent) -> bool:
        """Whether an engine can say this: while it holds a hash, that hash names one path."""
        if event.kind != Kind.STORED:
            return True
        before = {name: dict(blocks) for name, blocks in self.held.items()}
        after = Oracle()
        after.held = {name: dict(blocks) for name, blocks in self.held.items()}
        after.apply(event)
        blocks = list(unpack_hashes(event.block_hashes))
        return len(set(blocks)) == len(blocks) and all(
            after.held[name][block] == path for name, held in before.items() for block, path in held.items()
        )

    def find(self, query: Sequence[int], tier: Tier = Tier.DEVICE) -> dict[Rank, int]:
        found: dict[Rank, int] = {}
        for name, blocks in self.held.items():
            for path in blocks.values() if name[2] == tier else ():
                there = [tokens for tokens, _ in path] == list(query[: len(path)])
                if there and all(blocks.get(pair[1]) == path[: at + 1] for at, pair in enumerate(path)):
                    found[name[:2]] = max(found.get(name[:2], 0), len(path))
        return found

    def blocks_by_rank(self) -> dict[Rank, int]:
        return {rank: sum(len(b) for name, b in self.held.items() if name[:2] == rank) for rank in self.last_event_id}
