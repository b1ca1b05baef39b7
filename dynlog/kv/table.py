"""The keys of a bucket: what each of them is now, what it was before, and when its time is over.

Changes are made here and decided in `dynlog.kv.fold`.  Rows lie in shards: a picture shares them, and a shard that is
shared is copied before it changes, so that neither a picture nor a change ever takes long.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from dynlog.kv.keys import KeyOrder
from dynlog.kv.lease_fold import LeaseFold
from dynlog.kv.rows import CHANGES, CREATED, LEASE, OP, PUT, REVISION, TIME, TTL, Op, Row

SHARDS = 256
FEW = 2048
"""So many keys are copied at once, about a millisecond: less than copying shared shards would cost later writes."""


class _Shard:
    __slots__ = ("live", "past", "shared")

    def __init__(self) -> None:
        self.live: dict[str, Row] = {}
        # Older changes; of a key that is gone, how it went is the last.  Empty where the history is 1.
        self.past: dict[str, tuple[Row, ...]] = {}
        self.shared = False


class KeyTable:
    """Keys, each with its last ``history`` changes, the present one counted."""

    def __init__(self, history: int) -> None:
        self.history = history
        self.leases = LeaseFold()
        self.live = 0
        """How many keys are there."""
        self.rows = 0
        """How many rows are held in all, older ones counted."""
        self._shards = [_Shard() for _ in range(SHARDS)]
        self._order = KeyOrder()
        self._due: list[tuple[int, str, int]] = []  # (log time, key, revision); may name what has changed since
        self._timed = 0  # live keys with a time to live

    # What it knows

    def row(self, key: str) -> Row | None:
        """The key as it is now."""
        return self._shards[hash(key) % SHARDS].live.get(key)

    def rows_of(self, key: str) -> Sequence[Row]:
        """The last changes of the key, the oldest first."""
        shard = self._shards[hash(key) % SHARDS]
        past, row = shard.past.get(key, ()), shard.live.get(key)
        return past if row is None else (*past, row)

    def under(self, prefix: str) -> list[tuple[str, Row]]:
        """The keys that begin so and are there, in order."""
        return [(key, row) for key in self._order.under(prefix) if (row := self.row(key)) is not None]

    def walk(self, prefix: str) -> Iterator[tuple[str, Row]]:
        """As `under`, as it is at the moment of the call; whoever walks may take as long as it likes."""
        pieces = self._order.pieces_under(prefix)
        if sum(map(len, pieces)) <= FEW:
            return iter([(key, row) for keys in pieces for key in keys if (row := self.row(key)) is not None])
        for shard in self._shards:
            shard.shared = True
        shards = [shard.live for shard in self._shards]

        def walked() -> Iterator[tuple[str, Row]]:
            for keys in pieces:
                for key in keys:
                    if (row := shards[hash(key) % SHARDS].get(key)) is not None:
                        yield key, row

        return walked()

    def known(self, after: str = "", limit: int | None = None) -> Sequence[str]:
        """The first ``limit`` keys above ``after`` of which anything is known, those that are gone counted."""
        return self._order.between(after, limit=limit)

    def picture(self) -> Iterator[tuple[str, Sequence[Row]]]:
        """All keys in order, each with its rows, as they are at the moment of the call."""
        for shard in self._shards:
            shard.shared = True
        leaves, shards = self._order.picture(), [(shard.live, shard.past) for shard in self._shards]

        def walk() -> Iterator[tuple[str, Sequence[Row]]]:
            for leaf in leaves:
                for key in leaf:
                    live, past = shards[hash(key) % SHARDS]
                    row = live.get(key)
                    older = past.get(key, ()) if past else ()
                    yield key, older if row is None else (*older, row) if older else (row,)

        return walk()

    # What changes it

    def _own(self, key: str) -> _Shard:
        """The key's shard, to be changed."""
        shard = self._shards[hash(key) % SHARDS]
        if shard.shared:
            shard.live, shard.past, shard.shared = shard.live.copy(), shard.past.copy(), False
        return shard

    def put(self, key: str, value: bytes, lease: str, ttl_ms: int, offset: int, time_ms: int) -> Row:
        """The key has this value now."""
        shard = self._own(key)
        old = shard.live.get(key)
        if old is None:
            if key not in shard.past:
                self._order.add(key)
            row = (value, offset, offset, 1, time_ms, lease, ttl_ms, PUT)
            if self.history > 1:
                self._remember(shard, key, (), self.history - 1)
            self.live += 1
        else:
            row = (value, offset, old[CREATED], old[CHANGES] + 1, time_ms, lease, ttl_ms, PUT)
            if self.history > 1:
                self._remember(shard, key, (old,), self.history - 1)
            self.rows -= 1
            if old[LEASE] or old[TTL]:
                self._detach(key, old)
        shard.live[key] = row
        self.rows += 1
        if lease or ttl_ms:
            self._attach(key, row)
        return row

    def remove(self, key: str, op: Op, offset: int, time_ms: int) -> Row:
        """The key, which was there, is gone now; of one that had a lease nothing is known any more.

        Those are places in a line, instances: names that never come again, whose past would pile up for ever.
        """
        shard = self._own(key)
        old = shard.live.pop(key)
        self.live -= 1
        self.rows -= 1
        self._detach(key, old)
        row = (b"", offset, old[CREATED], old[CHANGES] + 1, time_ms, "", 0, int(op))
        if self.history > 1 and not old[LEASE]:
            self._remember(shard, key, (old, row), self.history)
        else:
            self.rows -= len(shard.past.pop(key, ()))
            self._order.discard(key)
        return row

    def _remember(self, shard: _Shard, key: str, rows: tuple[Row, ...], most: int) -> None:
        """Adds to the past of a key, which holds at most so many."""
        if not (rows or shard.past):
            return
        past = shard.past.get(key, ())
        now = (*past, *rows)[-most:]
        if now:
            shard.past[key] = now
            self.rows += len(now) - len(past)

    def forget(self, key: str) -> None:
        """Nothing but its present value is known of the key any more."""
        shard = self._own(key)
        past = shard.past.pop(key, None)
        if past is not None:
            self.rows -= len(past)
            if key not in shard.live:
                self._order.discard(key)

    def replace(self, after: str, upto: str, columns: Iterable[tuple[Sequence[str], Sequence[Row]]]) -> None:
        """Of the keys above ``after`` up to ``upto`` ("" is the end of all) exactly this is known now."""
        for key in self._order.between(after, upto):
            shard = self._own(key)
            if (row := shard.live.pop(key, None)) is not None:
                self._detach(key, row)
                self.live -= 1
                self.rows -= 1
            self.rows -= len(shard.past.pop(key, ()))
            self._order.discard(key)
        for keys, rows in columns:
            self.load(keys, rows)

    def load(self, keys: Sequence[str], rows: Sequence[Row]) -> None:
        """Takes rows of keys that are new to it, or of the key that it took last."""
        for key, row in zip(keys, rows, strict=True):
            shard = self._own(key)
            before = shard.live.pop(key, None)
            if before is not None:
                self._detach(key, before)
                self.live -= 1
                shard.past[key] = (*shard.past.get(key, ()), before)
            elif key not in shard.past:
                self._order.add(key)
            if row[OP] == PUT:
                shard.live[key] = row
                self.live += 1
                if row[LEASE] or row[TTL]:
                    self._attach(key, row)
            else:
                shard.past[key] = (*shard.past.get(key, ()), row)
        self.rows += len(keys)

    def load_plain(self, keys: Sequence[str], rows: Sequence[Row]) -> None:
        """Takes one row each of keys that are new to it and have neither past, lease nor time to live."""
        shards = self._shards
        for key, row in zip(keys, rows, strict=True):
            shards[hash(key) % SHARDS].live[key] = row
        self._order.add_all(keys)
        self.live += len(keys)
        self.rows += len(keys)

    # Times

    @property
    def has_times(self) -> bool:
        """Whether any key that is there has a time to live."""
        return self._timed > 0

    def next_due(self) -> tuple[int, str, int] | None:
        """(log time, key, revision) of the value whose time is over next."""
        while self._due:
            _, key, revision = self._due[0]
            if (row := self.row(key)) is not None and row[REVISION] == revision:
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
                live = {item for item in self._due if self._is_now(item[1], item[2])}
                self._due = [*live]
                heapq.heapify(self._due)

    def _is_now(self, key: str, revision: int) -> bool:
        row = self.row(key)
        return row is not None and row[REVISION] == revision

    def _detach(self, key: str, row: Row) -> None:
        if row[LEASE]:
            self.leases.unbind(key, row[LEASE])
        if row[TTL]:
            self._timed -= 1
