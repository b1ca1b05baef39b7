"""Decodes the router snapshot that Dynamo keeps in the NATS object store: every byte is accounted for, or refused.

The body (object ``radix-state`` of bucket ``<slug>-radix-bucket``) is bincode 1 of ``Vec<RouterEvent>``: little-endian,
fixed width, positional and without names, so a field that a release adds moves all that follows.  A `Profile` says
which fields a release writes; a body must fit one to its last byte.  The snapshot carries no stream sequence: events
may stand both in it and in the stream's tail, and folding them twice is harmless.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dynlog.errors import MalformedEvent
from dynlog.kvevents import Domain, Kind, KvEvent, Tier, pack_hashes, unpack_hashes

OBJECT_NAME = "radix-state"

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_EVENT_BYTES = 24  # the shortest event of any profile: worker_id, event_id, variant, dp_rank


@dataclass(frozen=True, slots=True)
class Profile:
    """Which optional fields a Dynamo release writes into its snapshots."""

    name: str
    storage_tier: bool = False  # u32 after worker_id
    start_position: bool = False  # Option<u32> after parent_hash
    mm_extra_info: bool = False  # Option<BlockExtraInfo> after each tokens_hash


PROFILES = (
    Profile("0.7.1"),
    Profile("0.9.1", mm_extra_info=True),
    Profile("1.0", storage_tier=True, start_position=True, mm_extra_info=True),
)
"""0.7.1 is measured; the others are read from upstream's sources."""


def decode_radix_snapshot(body: bytes, profiles: Sequence[Profile] = PROFILES) -> list[KvEvent]:
    """The snapshot's events in order, parents before children.

    Raises MalformedEvent, saying where each profile failed, if none consumes the body exactly, or if two do and read
    different events.  What ``mm_extra_info`` holds is checked and dropped: the tokens hash already covers it.
    """
    fitting: dict[str, list[KvEvent]] = {}
    failures = []
    for profile in profiles:
        try:
            fitting[profile.name] = _decode(body, profile)
        except _Misfit as misfit:
            failures.append(f"{profile.name}: {misfit}")
    if not fitting:
        raise MalformedEvent(
            f"{len(body)} bytes are no Dynamo router snapshot of a known release ({'; '.join(failures)}); a newer "
            "release needs a profile of its own in dynlog.migrations.radix_snapshot"
        )
    first, *others = fitting.values()
    if any(other != first for other in others):
        raise MalformedEvent(
            f"the snapshot can be read as {' and as '.join(fitting)}, with different events; name the release's "
            "profile instead of trying all"
        )
    return first


def fitting_profiles(body: bytes, profiles: Sequence[Profile] = PROFILES) -> tuple[str, ...]:
    """Names of the profiles that consume the body exactly; an empty router's body fits all of them."""
    names = []
    for profile in profiles:
        try:
            _decode(body, profile)
        except _Misfit:
            continue
        names.append(profile.name)
    return tuple(names)


class _Misfit(Exception):
    """The body is not of this profile."""


class _Cursor:
    """A position in the body that never passes its end."""

    __slots__ = ("at", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.body):
            raise _Misfit(f"{size} bytes expected at offset {self.at}, {len(self.body) - self.at} left")
        taken = self.body[self.at : end]
        self.at = end
        return taken

    def u32(self) -> int:
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def some(self) -> bool:
        """The tag of an Option."""
        tag = self.take(1)[0]
        if tag > 1:
            raise _Misfit(f"an Option's tag at offset {self.at - 1} is {tag}, not 0 or 1")
        return tag == 1

    def count(self, least: int) -> int:
        """A length; ``least`` bytes per item must still be there, so that a wrong one costs no time or memory."""
        count = self.u64()
        if count * least > len(self.body) - self.at:
            raise _Misfit(f"{count} items announced at offset {self.at - 8}, {len(self.body) - self.at} bytes left")
        return count


def _decode(body: bytes, profile: Profile) -> list[KvEvent]:
    cursor = _Cursor(body)
    events = [_event(cursor, profile) for _ in range(cursor.count(_EVENT_BYTES))]
    if cursor.at != len(body):
        raise _Misfit(f"{len(body) - cursor.at} bytes left over after {len(events)} events, at offset {cursor.at}")
    return events


def _event(cursor: _Cursor, profile: Profile) -> KvEvent:
    worker_id = cursor.u64()
    tier = _tier(cursor) if profile.storage_tier else Tier.DEVICE
    event_id = cursor.u64()
    variant = cursor.u32()
    parent: int | None = None
    start: int | None = None
    blocks = tokens = b""
    if variant == Kind.STORED:
        parent = cursor.u64() if cursor.some() else None
        if profile.start_position:
            start = cursor.u32() if cursor.some() else None
        blocks, tokens = _stored_blocks(cursor, profile)
    elif variant == Kind.REMOVED:
        blocks = cursor.take(8 * cursor.count(8))
    elif variant != Kind.CLEARED:
        raise _Misfit(f"event variant {variant} at offset {cursor.at - 4}, known are 0, 1 and 2")
    return KvEvent(
        worker_id=worker_id,
        kind=Kind(variant),
        block_hashes=blocks,
        tokens_hashes=tokens,
        parent_hash=parent,
        dp_rank=cursor.u32(),
        event_id=event_id,
        tier=tier,
        domain=Domain.WORKER,
        start_position=start,
    )


def _tier(cursor: _Cursor) -> Tier:
    value = cursor.u32()
    try:
        return Tier(value)
    except ValueError:
        raise _Misfit(f"storage tier {value} at offset {cursor.at - 4}, known are 0 to {max(Tier)}") from None


def _stored_blocks(cursor: _Cursor, profile: Profile) -> tuple[bytes, bytes]:
    if not profile.mm_extra_info:
        pairs = unpack_hashes(cursor.take(16 * cursor.count(16)))
        return pack_hashes(pairs[0::2]), pack_hashes(pairs[1::2])
    blocks, tokens = [], []
    for _ in range(cursor.count(17)):
        blocks.append(cursor.take(8))
        tokens.append(cursor.take(8))
        if cursor.some():
            for _ in range(cursor.count(16)):
                cursor.u64()  # the object's hash
                cursor.take(16 * cursor.count(16))  # its offsets, pairs of usize
    return b"".join(blocks), b"".join(tokens)
