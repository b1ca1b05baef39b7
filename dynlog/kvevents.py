"""KV-cache events as log records: one record holds one or more events of *one worker*, in columns.

A record's key is the worker id (u64, little-endian); its parts are

    heads          n x 32 bytes: kind u8, tier u8, domain u8, flags u8, dp_rank u32, count u32, start_position u32,
                   event_id u64, parent_hash u64          (little-endian)
    block_hashes   u64 each, little-endian, the events' hashes one after another (stored and removed)
    tokens_hashes  u64 each, little-endian, for the stored events only

so a follower reads hashes with ``memoryview.cast("Q")`` and never one object per block.  Order within a worker is the
order of the events; `event_id` is diagnostic (see the router).  Semantics: ``shared`` Dynamo RouterEvent of
ai-dynamo 0.7.1 to 1.6.1, plus ``WORKER_REMOVED``, which is ours: a rebuild must not resurrect a pod that is gone.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from dynlog.errors import MalformedEvent
from dynlog.record import Mark, Record

HEAD = struct.Struct("<BBBBIIIQQ")
WORKER_KEY = struct.Struct("<Q")
HAS_PARENT = 1
HAS_START_POSITION = 2
U64_MAX = 2**64 - 1


class Kind(IntEnum):
    """What an event says."""

    STORED = 0
    REMOVED = 1
    CLEARED = 2  # only that (worker_id, dp_rank), every tier
    WORKER_REMOVED = 3  # every dp_rank and tier of the worker; dynlog's own


class Tier(IntEnum):
    """Where a block lies (Dynamo's ``storage_tier``)."""

    DEVICE = 0
    HOST_PINNED = 1
    DISK = 2
    EXTERNAL = 3


class Domain(IntEnum):
    """Who owns the residency (Dynamo's ``residency_domain``)."""

    WORKER = 0
    CACHE_OWNER = 1


class KvEvent(NamedTuple):
    """One event of one worker; hashes are packed little-endian u64.

    ``tokens_hashes`` has as many hashes as ``block_hashes`` for STORED and is empty otherwise.
    """

    worker_id: int
    kind: Kind
    block_hashes: bytes = b""
    tokens_hashes: bytes = b""
    parent_hash: int | None = None
    dp_rank: int = 0
    event_id: int = 0
    tier: Tier = Tier.DEVICE
    domain: Domain = Domain.WORKER
    start_position: int | None = None


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """Packs u64 hashes little-endian; raises MalformedEvent for anything outside 0..2^64-1."""
    try:
        column = array("Q", hashes)
    except (TypeError, OverflowError) as error:
        raise MalformedEvent(f"a hash is not an unsigned 64-bit integer: {error}") from None
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def unpack_hashes(packed: bytes | memoryview) -> Sequence[int]:
    """The packed hashes as integers."""
    column = array("Q")
    column.frombytes(packed)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def worker_key(worker_id: int) -> bytes:
    """The record key of a worker; all its events lie in one partition, in order."""
    return WORKER_KEY.pack(worker_id)


def encode_events(events: Sequence[KvEvent], *, mark: Mark | None = None, timestamp_ms: int = 0) -> Record:
    """One record of the events, which must be of one worker and are kept in their order.

    Raises MalformedEvent for events of several workers, for no event, and for columns whose lengths do not agree.
    """
    if not events:
        raise MalformedEvent("a record of KV events needs at least one event")
    worker_id = events[0].worker_id
    heads = []
    for event in events:
        if event.worker_id != worker_id:
            raise MalformedEvent(f"one record holds events of one worker, not of {worker_id} and {event.worker_id}")
        count, rest = divmod(len(event.block_hashes), 8)
        expected = len(event.block_hashes) if event.kind == Kind.STORED else 0
        if rest or len(event.tokens_hashes) != expected:
            raise MalformedEvent(
                f"event {event.event_id} of worker {worker_id}: {len(event.block_hashes)} bytes of block hashes and "
                f"{len(event.tokens_hashes)} of tokens hashes do not go together for {event.kind.name}"
            )
        flags = (HAS_PARENT if event.parent_hash is not None else 0) | (
            HAS_START_POSITION if event.start_position is not None else 0
        )
        try:
            heads.append(
                HEAD.pack(
                    event.kind, event.tier, event.domain, flags, event.dp_rank, count,
                    event.start_position or 0, event.event_id, event.parent_hash or 0,
                )
            )  # fmt: skip
        except struct.error as error:
            raise MalformedEvent(f"event {event.event_id} of worker {worker_id}: {error}") from None
    try:
        key = worker_key(worker_id)
    except struct.error as error:
        raise MalformedEvent(f"worker id {worker_id}: {error}") from None
    return Record(
        key=key,
        parts=(
            b"".join(heads),
            b"".join([event.block_hashes for event in events]),
            b"".join([event.tokens_hashes for event in events]),
        ),
        mark=mark,
        timestamp_ms=timestamp_ms,
    )


def decode_events(key: bytes | None, parts: Sequence[bytes | memoryview]) -> Iterator[KvEvent]:
    """The events of a record, in order; raises MalformedEvent if the columns are not exactly consumed."""
    if key is None or len(key) != 8 or len(parts) != 3 or len(parts[0]) % HEAD.size:
        raise MalformedEvent("not a record of KV events: it needs an 8-byte key and three columns")
    (worker_id,) = WORKER_KEY.unpack(key)
    heads, blocks, tokens = (bytes(part) for part in parts)
    at = tokens_at = 0
    for kind, tier, domain, flags, dp_rank, count, start, event_id, parent in HEAD.iter_unpack(heads):
        try:
            names = Kind(kind), Tier(tier), Domain(domain)
        except ValueError as error:
            raise MalformedEvent(f"event {event_id} of worker {worker_id}: {error}") from None
        end = at + 8 * count
        tokens_end = tokens_at + (8 * count if kind == Kind.STORED else 0)
        yield KvEvent(
            worker_id=worker_id,
            kind=names[0],
            block_hashes=blocks[at:end],
            tokens_hashes=tokens[tokens_at:tokens_end],
            parent_hash=parent if flags & HAS_PARENT else None,
            dp_rank=dp_rank,
            event_id=event_id,
            tier=names[1],
            domain=names[2],
            start_position=start if flags & HAS_START_POSITION else None,
        )
        at, tokens_at = end, tokens_end
    if at != len(blocks) or tokens_at != len(tokens):
        raise MalformedEvent(
            f"worker {worker_id}: heads name {at} and {tokens_at} bytes of hashes, the columns hold {len(blocks)} and "
            f"{len(tokens)}"
        )
