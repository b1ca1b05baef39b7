"""A bucket's state is a fold over its topic: every write is decided here, from the order of the log and nothing else.

* **The same records give the same state and the same winners, on every engine and in every process.**  A write that
  loses stays in the log and changes nothing.
* A key that is bound to a lease is gone in the moment, by log order, in which the lease ends.
* A value's time is over by *log* time: an expiry that comes too early is void, whatever clock its author had.
* A fold that begins in the middle of the log is whole once a compaction that began there has covered everything
  (`KvFold.complete`); before that it must not be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from dynlog.batch import Batch
from dynlog.errors import MalformedRecord
from dynlog.kv import image
from dynlog.kv.lease_fold import Lease, unpack_leases
from dynlog.kv.records import (
    KEYS,
    LEASES,
    MARKS,
    Barrier,
    Beat,
    Create,
    Delete,
    Expire,
    Grant,
    Lapse,
    Pause,
    Picture,
    Purge,
    Put,
    Revoke,
    Update,
    from_parts,
)
from dynlog.kv.rows import REVISION, TIME, TTL, Entry, Op, Row, entry_of, unpack_rows
from dynlog.kv.table import KeyTable

MAX_HISTORY = 64
MAX_PASSES = 64
"""Of so many compactions at once is it known how far they have come."""
_NOTHING = (MARKS, "")


class Verdict(Enum):
    """What the fold made of a fact."""

    WON = "won"
    EXISTS = "exists"  # a creation, and the key is there; a grant, and the lease lives
    CONFLICT = "conflict"  # the key has another revision than the one named, or is gone
    MISSING = "missing"  # there is no such key or lease
    NO_LEASE = "no lease"  # the lease that the key was to be bound to does not live
    VOID = "void"  # an expiry that came too late or too early, a picture
    MALFORMED = "malformed"


class Outcome(NamedTuple):
    """The verdict on the record at ``offset``; ``revision`` is the key's after it, -1 if it is not there."""

    verdict: Verdict
    offset: int
    revision: int = -1


class KvFold:
    """The fold; a `Projection`.  ``history`` changes per key are kept, the present one counted.

    ``complete`` says that the log is folded from its very beginning.
    """

    schema = image.SCHEMA

    def __init__(self, history: int = 1, *, complete: bool = True) -> None:
        self._history = history
        self.malformed = 0
        self.changed: list[tuple[str, Row]] | None = None
        """Where every change goes as it happens, once somebody has put a list here."""
        self.marks: list[bytes] | None = None
        """What a fold that is not complete has learned of marks from a compaction: a snapshot of the dedupe table."""
        self._clear(complete)

    def _clear(self, complete: bool) -> None:
        self._table = KeyTable(self._history)
        self._staged: list[Picture] = []
        self._passes: dict[int, tuple[int, str]] = {}  # where a compaction began -> (section, key) up to which it came
        self.complete = complete
        self.whole_from = 0
        """From this offset on it knew what is a change and what is not."""
        self.compacted = 0
        """Where the newest compaction that covered everything began: what lies below is not needed."""
        self.dirty_from = 0
        """Where that compaction ended."""
        self.next = 0
        """The offset behind everything that was folded."""
        self.time_ms = 0
        """The log time of the newest record."""
        self.pause = -1
        """The offset of the newest pause that no picture came after; -1 if there is none.  It decides nothing."""

    # What it knows

    def __len__(self) -> int:
        return self._table.live

    @property
    def rows(self) -> int:
        """Rows held in all, older ones counted."""
        return self._table.rows

    @property
    def leases(self) -> Mapping[str, Lease]:
        """The leases that live, by id."""
        return self._table.leases.leases

    def heard_of(self) -> set[str]:
        """The leases that were granted or heard of since the last call."""
        return self._table.leases.heard_of()

    def keys_of(self, lease: str) -> frozenset[str]:
        """The keys that live only with the lease."""
        return self._table.leases.keys_of(lease)

    def get(self, key: str) -> Entry | None:
        """The key as it is now."""
        row = self._table.row(key)
        return None if row is None else entry_of(key, row)

    def under(self, prefix: str) -> list[tuple[str, Row]]:
        """The keys that begin so and are there, in order."""
        return self._table.under(prefix)

    def walk(self, prefix: str) -> Iterator[tuple[str, Row]]:
        """As `under`, as it is at the moment of the call, however long walking takes; beginning takes no time."""
        return self._table.walk(prefix)

    def history(self, key: str) -> list[Entry]:
        """The last changes of the key, the oldest first."""
        return [entry_of(key, row) for row in self._table.rows_of(key)]

    def rows_of(self, key: str) -> Sequence[Row]:
        """The last changes of the key as rows, the oldest first."""
        return self._table.rows_of(key)

    def known(self, after: str = "", limit: int | None = None) -> Sequence[str]:
        """The first ``limit`` keys above ``after`` of which anything is known, those that are gone counted."""
        return self._table.known(after, limit)

    @property
    def has_times(self) -> bool:
        """Whether any value has a time to live."""
        return self._table.has_times

    def next_due_ms(self) -> int | None:
        """The log time at which the next value's time is over."""
        item = self._table.next_due()
        return None if item is None else item[0]

    def due(self, time_ms: int, most: int) -> list[Lapse]:
        """What is to be said of the values whose time is over at that log time, at most so many."""
        return [Lapse(key, revision) for key, revision in self._table.due(time_ms, most)]

    # Folding

    def apply(self, batch: Batch) -> None:
        """Folds the records in; one that is malformed is counted and changes nothing."""
        columns = batch.columns
        for offset, time_ms, key, parts in zip(
            batch.offsets, batch.log_times, columns.keys, columns.bodies, strict=True
        ):
            self.take(offset, time_ms, key, parts)

    def take(self, offset: int, time_ms: int, key: bytes | None, parts: Sequence[bytes]) -> Outcome:
        """Folds one record in and says what came of it; one that was folded before is void."""
        if offset < self.next:
            return Outcome(Verdict.VOID, offset)
        self.next = offset + 1
        if time_ms > self.time_ms:
            self.time_ms = time_ms
        try:
            fact = from_parts(key, parts)
        except MalformedRecord:
            self.malformed += 1
            self._staged.clear()
            return Outcome(Verdict.MALFORMED, offset)
        if isinstance(fact, Picture):
            return self._picture(fact, offset)
        self._staged.clear()  # the pictures of one range are neighbours, or what they show may be over
        if type(fact) is Put:  # nearly all are
            return self._put(*fact, offset, time_ms)
        return self._decide(fact, offset, time_ms)

    def _decide(self, fact: object, offset: int, time_ms: int) -> Outcome:
        match fact:
            case Create(key, value, lease, ttl_ms):
                if (row := self._table.row(key)) is not None:
                    return Outcome(Verdict.EXISTS, offset, row[REVISION])
                return self._put(key, value, lease, ttl_ms, offset, time_ms)
            case Update(key, value, revision, lease, ttl_ms):
                if (present := self._revision(key)) != revision:
                    return Outcome(Verdict.CONFLICT, offset, present)
                return self._put(key, value, lease, ttl_ms, offset, time_ms)
            case Delete(key, revision):
                present = self._revision(key)
                if revision not in (-1, present):
                    return Outcome(Verdict.CONFLICT, offset, present)
                if present == -1:
                    return Outcome(Verdict.MISSING, offset)
                self._remove(key, Op.DELETE, offset, time_ms)
            case Lapse(key, revision):
                row = self._table.row(key)
                if row is None or row[REVISION] != revision or not row[TTL] or time_ms < row[TIME] + row[TTL]:
                    return Outcome(Verdict.VOID, offset, self._revision(key))
                self._remove(key, Op.LAPSE, offset, time_ms)
            case Purge(key):
                self._table.forget(key)
                return Outcome(Verdict.WON, offset, self._revision(key))
            case Grant():
                won = self._table.leases.grant(fact, offset, time_ms)
                return Outcome(Verdict.WON if won else Verdict.EXISTS, offset)
            case Beat():
                self._table.leases.beat(fact, offset)
            case Expire(lease, _):
                if not self._table.leases.is_expired_by(fact):
                    return Outcome(Verdict.VOID, offset)
                self._end(lease, offset, time_ms)
            case Revoke(lease):
                if not self._end(lease, offset, time_ms):
                    return Outcome(Verdict.MISSING, offset)
            case Barrier():
                pass
            case Pause():
                self.pause = offset
        return Outcome(Verdict.WON, offset)

    def _revision(self, key: str) -> int:
        row = self._table.row(key)
        return -1 if row is None else row[REVISION]

    def _put(self, key: str, value: bytes, lease: str, ttl_ms: int, offset: int, time_ms: int) -> Outcome:
        if lease and lease not in self._table.leases.leases:
            return Outcome(Verdict.NO_LEASE, offset, self._revision(key))
        row = self._table.put(key, value, lease, ttl_ms, offset, time_ms)
        if self.changed is not None:
            self.changed.append((key, row))
        return Outcome(Verdict.WON, offset, offset)

    def _remove(self, key: str, op: Op, offset: int, time_ms: int) -> None:
        row = self._table.remove(key, op, offset, time_ms)
        if self.changed is not None:
            self.changed.append((key, row))

    def _end(self, lease: str, offset: int, time_ms: int) -> bool:
        keys = self._table.leases.end(lease)
        for key in keys or ():
            self._remove(key, Op.RELEASE, offset, time_ms)
        return keys is not None

    # Compaction

    def _picture(self, fact: Picture, offset: int) -> Outcome:
        """A whole fold knows already what a picture says; one that began in the middle learns it."""
        self.pause = -1
        if not self.complete:
            if self._staged and self._staged[0][:3] != fact[:3]:
                self._staged = []  # another compaction came between: the first one begins its range anew
            self._staged.append(fact)
            if fact.more:
                return Outcome(Verdict.VOID, offset)
            staged, self._staged = self._staged, []
            try:
                self._learn(staged, fact.section, fact.upto)
            except ValueError:
                self.malformed += 1
                return Outcome(Verdict.MALFORMED, offset)
        if not fact.more:
            self._advance(fact)
        return Outcome(Verdict.VOID, offset)

    def _learn(self, staged: Sequence[Picture], section: int, upto: str) -> None:
        after = staged[0].after
        if section == MARKS:
            self.marks = [p.body for p in staged if p.body]
        elif section == LEASES:
            leases = [lease for p in staged for lease in unpack_leases(p.body)]
            self._table.leases.replace(after, upto, leases)
        else:
            self._table.replace(after, upto, [unpack_rows(p.body) for p in staged])

    def _advance(self, fact: Picture) -> None:
        """Notes how far a compaction has come; once it has covered all, what lies below its start is not needed."""
        start, here = fact.start, (fact.section, fact.after)
        covered = self._passes.get(start, _NOTHING)
        if here > covered:  # there is a gap before it
            return
        covered = max(covered, (fact.section, fact.upto) if fact.upto else (fact.section + 1, ""))
        self._passes[start] = covered
        if covered[0] > KEYS:
            if not self.complete:
                self.complete, self.whole_from = True, self.next
                if self.changed is not None:
                    self.changed.clear()
            if start >= self.compacted:
                self.compacted, self.dirty_from = start, self.next
            self._passes = {at: place for at, place in self._passes.items() if at > start}
            self.marks = None
        elif len(self._passes) > MAX_PASSES:  # of compactors that were killed
            del self._passes[min(self._passes)]

    def passes(self) -> Mapping[int, tuple[int, str]]:
        """The compactions that are not complete, by their start, and how far each has come; the caller's."""
        return dict(self._passes)

    # Snapshots

    def snapshot(self) -> Iterator[bytes]:
        """The state at the moment of the call, in parts of about 256 KiB."""
        table = self._table
        passes = [(start, *place) for start, place in self._passes.items()]
        head = image.Head(self.next, self.time_ms, self.compacted, self.dirty_from, self.complete, passes)
        counts = (table.rows, len(self.leases), len(self._staged))
        return image.write(head, counts, table.picture(), list(self.leases.values()), list(self._staged))

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replaces the state; raises SnapshotCorrupt and leaves it empty otherwise."""
        self._clear(complete=False)
        try:
            for part in image.read(parts):
                match part:
                    case image.Head():
                        self.next, self.time_ms, self.compacted, self.dirty_from = part[:4]
                        self.complete = part.complete
                        self._passes = {start: (section, after) for start, section, after in part.passes}
                    case image.Rows(keys, rows, plain):
                        (self._table.load_plain if plain else self._table.load)(keys, rows)
                    case Picture():
                        self._staged.append(part)
                    case _:
                        self._table.leases.load(part)
        except BaseException:
            self._clear(complete=False)
            raise
