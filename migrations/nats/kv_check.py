"""Compares a JetStream bucket with the log's: both are read again, and the journal is not.

A key is what its present value is, and the values before it that the source still has; what the log kept longer is no
difference.  Values are held as hashes, so that memory goes by the number of keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from xxhash import xxh3_64_digest

from dynlog.adapters.nats.kv import KvOp
from dynlog.adapters.nats.streams import read_stream
from dynlog.batch import Batch, Position
from dynlog.dedupe import DedupeTable
from dynlog.kv.fold import KvFold
from dynlog.kv.rows import OP, PUT, REVISION, TIME, TTL, VALUE, Row
from dynlog.kv.settings import settings_of
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


@dataclass(slots=True)
class _Key:
    """What the source has of a key: the hashes of its values, oldest first, with nothing for a deletion."""

    changes: tuple[bytes, ...] = ()
    timed: bool = False
    left_s: float | None = None
    refused: str = ""


async def compare_bucket(run: Run, rules: EntryRules, topic: Topic) -> list[Difference]:
    """What of the bucket is not in the log as it should be; the first thousand by name, the rest counted."""
    source = await _read_source(run, rules)
    fold, own = await fold_bucket(run.log, topic, rules.producers)
    now_ms = run.limits.clock.time_ms()
    found: list[Difference] = []
    count = 0

    def differs(key: str, what: str) -> None:
        nonlocal count
        count += 1
        if len(found) < MOST_NAMED:
            found.append(Difference(name=f"{rules.bucket.name} key {key}", what=what))

    for key, expected in source.items():
        if what := _difference(expected, fold.rows_of(key), now_ms):
            differs(key, what)
    for key, row in fold.walk(""):
        if key not in source and _is_in(own, row[REVISION]) and not _is_over(row, now_ms):
            differs(key, "is there in the log and gone from the source without a trace: delete it here if it should go")
    if count > len(found):
        found.append(Difference(name=f"{count - len(found)} more", what="only the first thousand are named"))
    return found


def _difference(expected: _Key, rows: Sequence[Row], now_ms: int) -> str:
    if expected.refused:
        return f"is not in the log: {expected.refused}"
    here = [_hash_of(row) for row in rows]
    if here and _is_over(rows[-1], now_ms):
        here.append(_GONE)
    over = expected.left_s is not None and expected.left_s <= 0
    there = expected.changes[-1] if expected.changes and not over else _GONE
    present = here[-1] if here else _GONE
    if expected.left_s is not None and abs(expected.left_s) < GRACE_S and _GONE in (there, present):
        return ""
    if there != present:
        where = f" (revision {rows[-1][REVISION]})" if rows else ""
        if there == _GONE:
            return f"is there in the log{where} and gone in the source: apply again, unless it is new here"
        if present == _GONE:
            return f"is not in the log{where}: written since, or never moved; apply again"
        return f"has another value in the log{where}: apply again, unless it was changed here"
    count = len(expected.changes)
    # Where times to live run out, it depends on the moment which older values are still there.
    if not expected.timed and count and tuple(here[-count:]) != expected.changes:
        return f"has another history in the log: the last {count} changes are not those of the source"
    return ""


def _is_over(row: Row, now_ms: int) -> bool:
    """Whether its time to live has run out, though nobody has said so in the log yet."""
    return row[OP] == PUT and bool(row[TTL]) and row[TIME] + row[TTL] <= now_ms


def _hash_of(row: Row) -> bytes:
    if row[OP] != PUT:
        return _GONE
    value = row[VALUE]
    return value.removeprefix(_HASHED) if value.startswith(_HASHED) else xxh3_64_digest(value)


async def _read_source(run: Run, rules: EntryRules) -> dict[str, _Key]:
    bucket, keys = rules.bucket, dict[str, _Key]()
    now_ns, info = await server_time_ns(run, bucket), bucket.info
    stream = read_stream(
        run.server, info, first=info.first_seq, last=info.last_seq, subject=f"{key_prefix(bucket)}>"
    )  # fmt: skip
    async with aclosing(stream) as messages:
        async for message in messages:
            entry = rules.entry(message)
            if is_of_an_instance(bucket.name, entry.key):
                continue
            known = keys.setdefault(entry.key, _Key())
            left = rules.left_s(entry, message, now_ns)
            known.refused = rules.write(message, message.time_ns).refused
            known.timed = known.timed or left is not None or bool(known.refused)
            known.left_s = left if entry.op is KvOp.PUT else None
            if entry.op is KvOp.PURGE:
                known.changes = ()
            elif entry.op is KvOp.DEL or entry.value is None:
                # A second deletion, or one of which nothing is left that was deleted, changes nothing here.
                known.changes += (_GONE,) if known.changes and known.changes[-1] != _GONE else ()
            else:
                known.changes += (xxh3_64_digest(entry.value),)
    return keys


async def fold_bucket(log: Log, topic: Topic, producers: tuple[str, str]) -> tuple[KvFold, list[tuple[int, int]]]:
    """The bucket as its records say, with hashes for values, and the offsets of those that a migration wrote.

    Only reads: whoever opens a bucket may write to it.
    """
    (state,) = await log.partitions(topic.name)
    fold = KvFold(settings_of(topic).history, complete=state.earliest == 0)
    table = None if log.capabilities.checks_marks else DedupeTable()
    own: list[tuple[int, int]] = []
    position = Position(topic.name, topic.incarnation, 0, state.earliest)
    while position.offset < state.end:
        batch = await log.read(position)
        kept = batch if table is None else table.filter(batch)
        own += [
            (kept.offsets[run.start], kept.offsets[run.start + run.length - 1])
            for run in kept.marks
            if run.producer_id in producers
        ]
        _fold(fold, kept)
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            break
    return fold, own


def _fold(fold: KvFold, batch: Batch) -> None:
    for offset, time_ms, key, parts in zip(batch.offsets, batch.log_times, batch.keys, batch.bodies, strict=True):
        if key is not None and len(parts) == 2:
            parts = (parts[0], _HASHED + xxh3_64_digest(parts[1]))
        fold.take(offset, time_ms, key, parts)


def _is_in(runs: Sequence[tuple[int, int]], offset: int) -> bool:
    low, high = 0, len(runs)
    while low < high:
        middle = (low + high) // 2
        if runs[middle][1] < offset:
            low = middle + 1
        else:
            high = middle
    return low < len(runs) and runs[low][0] <= offset
