"""Compares a JetStream bucket with the log's: both are read again, and the journal is not.

Every revision that the source still has is to be in the log as it was written there, and every key is to be now what it
is there.  Values are held as hashes, so that memory goes by the number of keys; of a bucket that was compacted only the
present is compared.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from dynlog.adapters.nats.kv import KvEntry, KvOp
from dynlog.adapters.nats.streams import read_stream
from dynlog.batch import Batch, Position
from dynlog.codec import MarkRun
from dynlog.dedupe import DedupeTable
from dynlog.errors import MalformedRecord
from dynlog.kv.fold import KvFold
from dynlog.kv.records import Picture, Put, from_parts
from dynlog.kv.rows import OP, PUT, REVISION, TIME, TTL, VALUE, Row
from dynlog.log import Log
from dynlog.migrations.nats.contract import Difference, Run
from dynlog.migrations.nats.kv_copy import server_time_ns
from dynlog.migrations.nats.kv_entries import EntryRules, is_of_an_instance, key_prefix
from dynlog.migrations.nats.targets import MOST_NAMED
from dynlog.topics import Topic

GRACE_S = 5.0
"""A value whose time is over about now may be gone on one side and not yet on the other."""
_HASHED = b"\0dynlog-xxh3:"
_GONE = b""
_DELETION = 0


@dataclass(slots=True)
class _Key:
    """What the source has of a key now: the hash of its value, nothing if it is gone."""

    value: bytes = _GONE
    left_s: float | None = None
    refused: str = ""


@dataclass(slots=True)
class _Log:
    """What the log has: the bucket's present, and of each record that a migration wrote its sequence and a hash."""

    fold: KvFold
    compacted: bool
    sequences: array[int] = field(default_factory=lambda: array("q"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    own: list[tuple[int, int]] = field(default_factory=list)


class _Found:
    def __init__(self) -> None:
        self._named: list[Difference] = []
        self._more = 0

    def add(self, name: str, what: str) -> None:
        if len(self._named) < MOST_NAMED:
            self._named.append(Difference(name=name, what=what))
        else:
            self._more += 1

    def all(self) -> list[Difference]:
        more = [Difference(name=f"{self._more} more", what="only the first thousand are named")] if self._more else []
        return [*self._named, *more]


async def compare_bucket(run: Run, rules: EntryRules, topic: Topic) -> list[Difference]:
    """What of the bucket is not in the log as it should be; the first thousand by name, the rest counted."""
    found, bucket = _Found(), rules.bucket.name
    log = await _read_log(run.log, topic, rules.producers)
    source = await _read_source(run, rules, log, found)
    now_ms = run.limits.clock.time_ms()
    for key, expected in source.items():
        if what := _difference(expected, log.fold.rows_of(key), now_ms):
            found.add(f"{bucket} key {key}", what)
    for key, row in log.fold.walk(""):
        if key not in source and _is_in(log.own, row[REVISION]) and not _is_over(row, now_ms):
            what = "is there in the log and gone from the source without a trace: delete it here if it should go"
            found.add(f"{bucket} key {key}", what)
    return found.all()


def _difference(expected: _Key, rows: Sequence[Row], now_ms: int) -> str:
    if expected.refused:
        return f"is not in the log: {expected.refused}"
    over = expected.left_s is not None and expected.left_s <= 0
    there = _GONE if over else expected.value
    here = _hash_of(rows[-1]) if rows and not _is_over(rows[-1], now_ms) else _GONE
    if there == here:
        return ""
    if expected.left_s is not None and abs(expected.left_s) < GRACE_S and _GONE in (there, here):
        return ""
    where = f" (revision {rows[-1][REVISION]})" if rows else ""
    if there == _GONE:
        return f"is there in the log{where} and gone in the source: apply again, unless it is new here"
    if here == _GONE:
        return f"is not in the log{where}: written since, or never moved; apply again"
    return f"has another value in the log{where}: apply again, unless it was changed here"


def _is_over(row: Row, now_ms: int) -> bool:
    """Whether its time to live has run out, though nobody has said so in the log yet."""
    return row[OP] == PUT and bool(row[TTL]) and row[TIME] + row[TTL] <= now_ms


def _hash_of(row: Row) -> bytes:
    if row[OP] != PUT:
        return _GONE
    value = row[VALUE]
    return value.removeprefix(_HASHED) if value.startswith(_HASHED) else xxh3_64_digest(value)


async def _read_source(run: Run, rules: EntryRules, log: _Log, found: _Found) -> dict[str, _Key]:
    """What each key is now; revisions that the log has otherwise, or passed over, are found on the way."""
    bucket, keys, at = rules.bucket, dict[str, _Key](), 0
    now_ns, info = await server_time_ns(run, bucket), bucket.info
    stream = read_stream(run.server, info, first=info.first_seq, last=info.last_seq, subject=f"{key_prefix(bucket)}>")
    async with aclosing(stream) as messages:
        async for message in messages:
            entry = rules.entry(message)
            if is_of_an_instance(bucket.name, entry.key):
                continue
            known = keys.setdefault(entry.key, _Key())
            left = rules.left_s(entry, message, now_ns)
            known.refused = rules.why_not(entry)
            known.left_s = left if entry.op is KvOp.PUT else None
            known.value = _GONE if entry.op is not KvOp.PUT or entry.value is None else xxh3_64_digest(entry.value)
            while at < len(log.sequences) and log.sequences[at] < entry.revision:
                at += 1
            # What lies behind the last one that was moved is told of key by key.
            if not log.compacted and not known.refused and at < len(log.sequences):
                if log.sequences[at] != entry.revision:
                    found.add(rules.name(entry), "was passed over in the log")
                elif log.hashes[at] != _expected(entry) and not (left is not None and log.hashes[at] == _DELETION):
                    found.add(rules.name(entry), "is another change in the log than in the source")
    return keys


def _expected(entry: KvEntry) -> int:
    if entry.op is not KvOp.PUT or entry.value is None:
        return _DELETION
    return _change(entry.key.encode("utf-8", "surrogateescape"), entry.value)


def _change(key: bytes, value: bytes) -> int:
    return int(xxh3_64_intdigest(value, xxh3_64_intdigest(key))) or 1


async def _read_log(log: Log, topic: Topic, producers: tuple[str, str]) -> _Log:
    """The bucket as its records say.  Only reads: whoever opens a bucket may write to it."""
    (state,) = await log.partitions(topic.name)
    seen = _Log(KvFold(1, complete=state.earliest == 0), compacted=state.earliest > 0)
    table = None if log.capabilities.checks_marks else DedupeTable()
    position = Position(topic.name, topic.incarnation, 0, state.earliest)
    while position.offset < state.end:
        batch = await log.read(position)
        kept = batch if table is None else table.filter(batch)
        for run in kept.marks:
            if run.producer_id in producers:
                seen.own.append((kept.offsets[run.start], kept.offsets[run.start + run.length - 1]))
            if run.producer_id == producers[0]:
                _note(seen, kept, run)
        _fold(seen, kept)
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            break
    return seen


def _note(seen: _Log, batch: Batch, run: MarkRun) -> None:
    for index in range(run.start, run.start + run.length):
        try:
            fact = from_parts(batch.keys[index], batch.bodies[index])
        except MalformedRecord:
            continue
        seen.sequences.append(run.sequence + index - run.start)
        seen.hashes.append(_change(fact.key.encode(), fact.value) if isinstance(fact, Put) else _DELETION)


def _fold(seen: _Log, batch: Batch) -> None:
    for offset, time_ms, key, parts in zip(batch.offsets, batch.log_times, batch.keys, batch.bodies, strict=True):
        if key is not None and len(parts) == 2:
            parts = (parts[0], _HASHED + xxh3_64_digest(parts[1]))
        elif key is None and not seen.compacted and len(parts) == 2:
            seen.compacted = _is_picture(parts)
        seen.fold.take(offset, time_ms, key, parts)


def _is_picture(parts: Sequence[bytes]) -> bool:
    try:
        return isinstance(from_parts(None, parts), Picture)
    except MalformedRecord:
        return False


def _is_in(runs: Sequence[tuple[int, int]], offset: int) -> bool:
    low, high = 0, len(runs)
    while low < high:
        middle = (low + high) // 2
        if runs[middle][1] < offset:
            low = middle + 1
        else:
            high = middle
    return low < len(runs) and runs[low][0] <= offset
