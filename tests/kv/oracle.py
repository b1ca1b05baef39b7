"""What a bucket's state must be, by brute force: every fact judged anew against the whole past."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dynlog.kv.records import (
    Beat,
    Create,
    Delete,
    Expire,
    Fact,
    Grant,
    Lapse,
    Purge,
    Put,
    Revoke,
    Update,
)

Change = tuple[Any, ...]  # value, revision, created, changes, time, lease, ttl, op


@dataclass
class Oracle:
    """All changes of all keys, and all leases that live: {id: [token, owner, ttl, beat, granted]}."""

    history: int
    changes: dict[str, list[Change]] = field(default_factory=dict)
    leases: dict[str, list[Any]] = field(default_factory=dict)

    def now(self, key: str) -> Change | None:
        past = self.changes.get(key)
        return past[-1] if past and past[-1][7] == 0 else None

    def take(self, fact: Fact, offset: int, time: int) -> None:
        match fact:
            case Put(key, _, lease, _) | Create(key, _, lease, _) | Update(key, _, _, lease, _):
                now = self.now(key)
                if (isinstance(fact, Create) and now) or (lease and lease not in self.leases):
                    return
                if isinstance(fact, Update) and (now is None or now[1] != fact.revision):
                    return
                since, count = (now[2], now[3] + 1) if now else (offset, 1)
                self.change(key, (fact.value, offset, since, count, time, lease, fact.ttl_ms, 0))
            case Delete(key, revision) if (now := self.now(key)) and revision in (-1, now[1]):
                self.gone(key, 1, offset, time)
            case Lapse(key, revision) if (now := self.now(key)) and now[1] == revision and now[6]:
                if time >= now[4] + now[6]:
                    self.gone(key, 2, offset, time)
            case Purge(key):
                self.changes[key] = [now] if (now := self.now(key)) else []
            case Grant(id, ttl, owner) if id not in self.leases:
                self.leases[id] = [offset, owner, ttl, offset, time]
            case Beat(_, ids):
                for id in set(ids) & set(self.leases):
                    self.leases[id][3] = offset
            case Revoke(id) | Expire(id, _) if id in self.leases:
                if isinstance(fact, Expire) and self.leases[id][3] > fact.beat:
                    return
                del self.leases[id]
                for key in self.changes:
                    if (now := self.now(key)) and now[5] == id:
                        self.gone(key, 3, offset, time)

    def gone(self, key: str, op: int, offset: int, time: int) -> None:
        now = self.now(key)
        assert now is not None
        if now[5]:  # what had a lease leaves nothing behind
            self.changes[key] = []
        else:
            self.change(key, (b"", offset, now[2], now[3] + 1, time, "", 0, op))

    def change(self, key: str, change: Change) -> None:
        self.changes[key] = [*self.changes.get(key, []), change]

    def seen(self) -> tuple[dict[str, list[Change]], dict[str, list[Any]]]:
        """Per key what is remembered, and the leases."""
        kept = {key: all_of[-self.history :] for key, all_of in self.changes.items() if all_of}
        if self.history == 1:
            kept = {key: rows for key, rows in kept.items() if rows[-1][7] == 0}
        return kept, self.leases
