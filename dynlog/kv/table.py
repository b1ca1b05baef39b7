"""The keys of a bucket: what each of them is now, what it was before, and when its time is over.

Changes are made here and decided in `dynlog.kv.fold`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from dynlog.kv.keys import KeyOrder
from dynlog.kv.lease_fold import LeaseFold
from dynlog.kv.rows import CHANGES, CREATED, LEASE, OP, PUT, REVISION, TIME, TTL, Op, Row


class KeyTable:
    """Keys, each with its last ``history`` changes, the present one counted."""

    def __init__(self, history: int) -> None:
        self.history = history
        self.live: dict[str, Row] = {}
        self.past: dict[str, tuple[Row, ...]] = {}
        """Older changes; of a key that is gone, how it went is the last.  Empty where ``history`` is 1."""
        self.leases = LeaseFold()
        self._order = KeyOrder()
        self._due: list[tuple[int, str, int]] = []  # (log time, key, revision); may name what has changed since
        self._timed = 0  # live keys with a time to live

    def rows_of(self, key: str) -> Sequence[Row]:
        """The last changes of the key, the oldest first."""
        past, row = self.past.get(key, ()), self.live.get(key)
        return past if row is None else (*past, row)

    def under(self, prefix: str) -> list[tuple[str, Row]]:
        """The keys that begin so and are there, in order."""
        live = self.live
        return [(key, live[key]) for key in self._order.under(prefix) if key in live]

    def known(self, after: str = "", limit: int | None = None) -> Sequence[str]:
        """The first ``limit`` keys above ``after`` of which anything is known, those that are gone counted."""
        return self._order.between(after, limit=limit)

    def put(self, key: str, value: bytes, lease: str, ttl_ms: int, offset: int, time_ms: int) -> Row:
        """The key has this value now."""
        old = self.live.get(key)
        if old is None:
            if (past := self.past.get(key)) is None:
                self._order.add(key)
            elif len(past) >= self.history:
                self.past[key] = past[1 - self.history :]
            row = (value, offset, offset, 1, time_ms, lease, ttl_ms, PUT)
        else:
            row = (value, offset, old[CREATED], old[CHANGES] + 1, time_ms, lease, ttl_ms, PUT)
            if self.history > 1:
                self.past[key] = (*self.past.get(key, ()), old)[1 - self.history :]
            if old[LEASE] or old[TTL]:
                self._detach(key, old)
        self.live[key] = row
        if lease or ttl_ms:
            self._attach(key, row)
        return row

    def remove(self, key: str, op: Op, offset: int, time_ms: int) -> Row:
        """The key, which was there, is gone now."""
        old = self.live.pop(key)
        self._detach(key, old)
        row = (b"", offset, old[CREATED], old[CHANGES] + 1, time_ms, "", 0, int(op))
        if self.history > 1:
            self.past[key] = (*self.past.get(key, ()), old, row)[-self.history :]
        else:
            self._order.discard(key)
        return row

    def forget(self, key: str) -> None:
        """Nothing but its present value is known of the key any more."""
        if self.past.pop(key, None) is not None and key not in self.live:
            self._order.discard(key)

    def replace(self, after: str, upto: str, columns: Iterable[tuple[Sequence[str], Sequence[Row]]]) -> None:
        """Of the keys above ``after`` up to ``upto`` ("" is the end of all) exactly this is known now."""
        for key in list(self._order.between(after, upto)):
            if (row := self.live.pop(key, None)) is not None:
                self._detach(key, row)
            self.past.pop(key, None)
            self._order.discard(key)
        for keys, rows in columns:
            self.load(keys, rows)

    def load(self, keys: Sequence[str], rows: Sequence[Row]) -> None:
        """Takes rows of keys that are new to it, or of the key that it took last."""
        live, past = self.live, self.past
        for key, row in zip(keys, rows, strict=True):
            before = live.pop(key, None)
            if before is not None:
                self._detach(key, before)
                past[key] = (*past.get(key, ()), before)
            elif key not in past:
                self._order.add(key)
            if row[OP] == PUT:
                live[key] = row
                if row[LEASE] or row[TTL]:
                    self._attach(key, row)
            else:
                past[key] = (*past.get(key, ()), row)

    def load_plain(self, keys: Sequence[str], rows: Sequence[Row]) -> None:
        """Takes one row each of keys that are new to it and have neither past, lease nor time to live."""
        self.live.update(zip(keys, rows, strict=True))
        self._order.add_all(keys)

    def next_due(self) -> tuple[int, str, int] | None:
        """(log time, key, revision) of the value whose time is over next."""
        while self._due:
            _, key, revision = self._due[0]
            if (row := self.live.get(key)) is not None and row[REVISION] == revision:
                return self._due[0]
            heapq.heappop(self._due)
        return None

    def due(self, time_ms: int, most: int) -> list[tuple[str, int]]:
        """(key, revision) of the values whose time is over at that log time, at most so many."""
        found: list[tuple[int, str, int]] = []
        while len(found) < most and (item := self.next_due()) is not None and item[0] <= time_ms:
            found.append(heapq.heappop(self._due))
        for item in found:  # they stay until the log says that they are gone
            heapq.heappush(self._due, item)
        return [(key, revision) for _, key, revision in found]

    def _attach(self, key: str, row: Row) -> None:
        if row[LEASE]:
            self.leases.bind(key, row[LEASE])
        if row[TTL]:
            self._timed += 1
            heapq.heappush(self._due, (row[TIME] + row[TTL], key, row[REVISION]))
            if len(self._due) > 2 * self._timed + 64:  # mostly of values that were replaced
                self._due = [(r[TIME] + r[TTL], k, r[REVISION]) for k, r in self.live.items() if r[TTL]]
                heapq.heapify(self._due)

    def _detach(self, key: str, row: Row) -> None:
        if row[LEASE]:
            self.leases.unbind(key, row[LEASE])
        if row[TTL]:
            self._timed -= 1
