"""A key-value bucket: every write is decided by the order of the log, and its writer learns how.

* **A write happens at most once**, and if it returns it is as durable as the log says; a lost race raises KeyExists or
  RevisionConflict and has changed nothing; OutcomeUnknown is raised only where the log itself does not know.
* **Whoever has written reads what it wrote**: a local `get` sees every write of this process that has returned.
  ``linearizable=True`` sees every write that has returned anywhere.
* **Writers of one process share appends**: many at once cost about as much as one.
* A get is answered from memory, also while the log cannot be reached (`Bucket.status` says since when).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dynlog.codec import U63_MAX
from dynlog.errors import (
    ConfigurationError,
    EntryTooLarge,
    KeyExists,
    LeaseLost,
    MalformedRecord,
    RevisionConflict,
)
from dynlog.kv.compaction import Compacted, Compactor
from dynlog.kv.fold import Outcome, Verdict
from dynlog.kv.follower import Follower
from dynlog.kv.latest import Latest
from dynlog.kv.lease_fold import Lease
from dynlog.kv.records import Create, Delete, Fact, Purge, Put, Update, encode_key
from dynlog.kv.rows import Entry, Row, entry_of
from dynlog.kv.settings import BucketSettings, ttl_ms, value_limit
from dynlog.kv.watch import MOST_EVENTS, Watch
from dynlog.kv.writer import Writer
from dynlog.log import DEFAULT_TIMEOUT_S, Log
from dynlog.manifests import Manifest
from dynlog.snapshot_writer import SnapshotWriter

Value = bytes | bytearray | memoryview
STEP = 1024
"""So many entries are listed before the event loop has a turn: about a millisecond."""


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """How a bucket stands in this process; times are milliseconds since the epoch."""

    bucket: str
    revision: int
    keys: int
    leases: int
    stale_since_ms: int | None
    last_error: str | None
    started_from: str
    malformed: int
    snapshots: int


class Bucket:
    """An open bucket; get it from `KeyValue`, which also closes it.  Safe for concurrent use by many tasks."""

    def __init__(
        self,
        log: Log,
        follower: Follower,
        writer: Writer,
        latest: Latest,
        settings: BucketSettings,
        snapshots: SnapshotWriter | None,
    ) -> None:
        self._log, self._follower, self._writer, self._latest = log, follower, writer, latest
        self._snapshots = snapshots
        self._value_limit = value_limit(settings, log.capabilities.max_batch_bytes)
        self._ttl_ms = ttl_ms(settings.ttl_s)
        self._compactor = Compactor(log, follower, writer)
        self.settings = settings
        self.name = follower.bucket

    # Reading

    @property
    def revision(self) -> int:
        """The revision as of which `get`, `entries` and `history` answer in this moment; -1 of an empty bucket."""
        return self._follower.offset - 1

    def __len__(self) -> int:
        return len(self._follower.fold)

    async def get(self, key: str, *, linearizable: bool = False, timeout: float = DEFAULT_TIMEOUT_S) -> Entry | None:
        """The key's present value, None if it is not there.

        A linearizable get sees every write that had returned anywhere when it was called; it costs a question to the
        log, or an append where the engine's reads may be late, and concurrent callers share it.  Raises what `barrier`
        raises then, BucketNotFound, Closed.
        """
        if linearizable:
            await self._latest.reach(timeout)
        else:
            self._follower.check()
        _text(key)
        return self._follower.fold.get(key)

    async def barrier(self, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Returns the revision as of which this process knows everything that had returned anywhere before the call.

        Raises DeadlineExceeded, LogUnavailable, OutcomeUnknown, BucketNotFound, Closed.
        """
        return await self._latest.reach(timeout)

    async def entries(
        self, prefix: str = "", *, linearizable: bool = False, timeout: float = DEFAULT_TIMEOUT_S
    ) -> list[Entry]:
        """What is there under the prefix, by key, all as of one revision; raises as `get`.

        It costs one or two seconds and some hundred megabytes for a million keys, in steps between which others have
        their turn; for so many `watch` is the better way.
        """
        if linearizable:
            await self._latest.reach(timeout)
        else:
            self._follower.check()
        _text(prefix)
        return await entries_of(self._follower.fold.walk(prefix))

    async def history(self, key: str) -> list[Entry]:
        """The last changes of the key, the oldest first: at most ``settings.history`` of them."""
        self._follower.check()
        _text(key)
        return self._follower.fold.history(key)

    def watch(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        from_revision: int | None = None,
        most: int = MOST_EVENTS,
    ) -> Watch:
        """Watches a key, the keys under a prefix, or all: see `dynlog.kv.watch`.

        With ``from_revision`` the changes behind it come first instead of the state; if the bucket no longer knows
        them one by one, `Resync` and the state.  At most ``most`` events wait for a slow watcher before it is told.
        """
        return Watch(self._log, self._follower, key=key, prefix=prefix, from_revision=from_revision, most=most)

    # Writing

    async def put(
        self,
        key: str,
        value: Value,
        *,
        lease: str | None = None,
        ttl_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """The key has that value, whatever it had; returns the revision.

        With a ``lease`` it is gone when that ends, with ``ttl_s`` after so long.  Raises LeaseLost, EntryTooLarge,
        DeadlineExceeded, LogUnavailable and LogFull (nothing was written), OutcomeUnknown, BucketNotFound, Closed.
        """
        return await self._write(Put(key, self._value(key, value), lease or "", self._ttl(ttl_s, lease)), timeout)

    async def create(
        self,
        key: str,
        value: Value,
        *,
        lease: str | None = None,
        ttl_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """As `put`, but of all that create a key exactly one succeeds; the others get KeyExists."""
        return await self._write(Create(key, self._value(key, value), lease or "", self._ttl(ttl_s, lease)), timeout)

    async def update(
        self,
        key: str,
        value: Value,
        revision: int,
        *,
        lease: str | None = None,
        ttl_s: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """As `put`, but only if the key is at that revision; else RevisionConflict, which says where it is."""
        value = self._value(key, value)
        fact = Update(key, value, _revision(revision), lease or "", self._ttl(ttl_s, lease))
        return await self._write(fact, timeout)

    async def delete(self, key: str, revision: int | None = None, *, timeout: float = DEFAULT_TIMEOUT_S) -> int | None:
        """The key is gone; returns the revision of that, None if it was not there.

        With a ``revision`` only if it is at that one; else RevisionConflict.  Raises as `put`.
        """
        self._key(key)
        fact = Delete(key, -1 if revision is None else _revision(revision))
        outcome = await self._writer.say(fact, timeout)
        if outcome.verdict is Verdict.MISSING:
            return None
        return self._won(fact, outcome)

    async def purge(self, key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Forgets all but the present value of the key; of a key that is gone, everything.  Raises as `put`."""
        self._key(key)
        await self._writer.say(Purge(key), timeout)

    async def _write(self, fact: Put | Create | Update, timeout: float) -> int:
        return self._won(fact, await self._writer.say(fact, timeout))

    def _won(self, fact: Put | Create | Update | Delete, outcome: Outcome) -> int:
        verdict, offset, revision = outcome
        if verdict is Verdict.WON:
            return offset
        if verdict is Verdict.EXISTS:
            raise KeyExists(
                f"it was created before, at revision {revision}: nothing was changed",
                bucket=self.name,
                key=fact.key,
                revision=revision,
            )
        if verdict is Verdict.CONFLICT:
            where = f"at revision {revision}" if revision >= 0 else "not there"
            asked = fact.revision if isinstance(fact, Update | Delete) else -1
            raise RevisionConflict(
                f"it is {where}, not at {asked}: nothing was changed; read it and decide again",
                bucket=self.name,
                key=fact.key,
                revision=revision if revision >= 0 else None,
            )
        if verdict is Verdict.NO_LEASE and not isinstance(fact, Delete):
            raise LeaseLost(
                f"lease {fact.lease!r} does not live: nothing was changed",
                bucket=self.name,
                lease=fact.lease,
                key=fact.key,
            )
        raise MalformedRecord(f"bucket {self.name!r}: a record that other releases do not take: {outcome}")

    def _key(self, key: str) -> None:
        encoded = encode_key(key)
        if len(encoded) > self.settings.max_key_bytes:
            raise EntryTooLarge(
                f"a key has at most {self.settings.max_key_bytes} bytes here, this {len(encoded)}",
                bucket=self.name,
                key=key[:40],
            )

    def _value(self, key: str, value: Value) -> bytes:
        self._key(key)
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ConfigurationError(f"a value is bytes, not {type(value).__name__}; or use a typed bucket")
        value = bytes(value)
        if len(value) > self._value_limit:
            raise EntryTooLarge(
                f"a value has at most {self._value_limit} bytes here, this {len(value)}; put it into an object store "
                "and its name here",
                bucket=self.name,
                key=key,
            )
        return value

    def _ttl(self, ttl_s: float | None, lease: str | None) -> int:
        if ttl_s is None:
            return 0 if lease else self._ttl_ms  # what has a lease is there as long as that: a place in a line, say
        return ttl_ms(ttl_s)

    # For what is built upon it: leases, locks, discovery

    @property
    def follower(self) -> Follower:
        """The state as it is followed: its fold, and how to wait for changes."""
        return self._follower

    @property
    def leases(self) -> Mapping[str, Lease]:
        """The leases that live, by id, as of `revision`."""
        return self._follower.fold.leases

    def keys_of(self, lease: str) -> frozenset[str]:
        """The keys that live only with the lease, as of `revision`."""
        return self._follower.fold.keys_of(lease)

    async def say(self, fact: Fact, *, timeout: float = DEFAULT_TIMEOUT_S) -> Outcome:
        """Appends a fact, together with what others say meanwhile, and returns what the fold made of it.

        Raises DeadlineExceeded, LogUnavailable and LogFull (nothing was written), OutcomeUnknown, BucketNotFound.
        """
        return await self._writer.say(fact, timeout)

    # Care

    def status(self) -> BucketStatus:
        """How it stands now."""
        follower, fold = self._follower, self._follower.fold
        return BucketStatus(
            bucket=self.name,
            revision=self.revision,
            keys=len(fold),
            leases=len(fold.leases),
            stale_since_ms=follower.stale_since_ms,
            last_error=str(follower.error) if follower.error is not None else None,
            started_from=follower.started_from,
            malformed=fold.malformed,
            snapshots=self._snapshots.written if self._snapshots is not None else 0,
        )

    async def snapshot(self) -> Manifest:
        """Writes a snapshot now, so that the bucket opens fast; raises ConfigurationError without an object store."""
        if self._snapshots is None:
            raise ConfigurationError("snapshots need an object store: give objects= (on the command line --objects)")
        return await self._snapshots.write()

    async def compact(self, *, timeout: float = 600.0) -> Compacted:
        """Writes the state anew at the log's end and cuts off what is below, as far as holders let it.

        Revisions stay.  Raises DeadlineExceeded if others write so much that it does not get through.
        """
        return await self._compactor.run(timeout)

    @property
    def compactor(self) -> Compactor:
        """Who compacts it."""
        return self._compactor


def _text(key: object) -> None:
    """No other key is ever there, so who looks for one would wait for ever."""
    if not isinstance(key, str):
        raise ConfigurationError(f"{key!r:.80}: keys and prefixes are text, not {type(key).__name__}")


def _revision(revision: int) -> int:
    if type(revision) is not int or not 0 <= revision <= U63_MAX:
        raise ConfigurationError(f"revision={revision!r}: a revision is a number from 0 to {U63_MAX}")
    return revision


async def entries_of(rows: Iterable[tuple[str, Row]]) -> list[Entry]:
    """The rows as entries, in steps between which others have their turn."""
    found: list[Entry] = []
    for key, row in rows:
        found.append(entry_of(key, row))
        if len(found) % STEP == 0:
            await asyncio.sleep(0)
    return found
