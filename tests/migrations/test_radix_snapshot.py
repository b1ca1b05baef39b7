"""A router snapshot is read to its last byte or refused, whatever was cut off, added or changed."""

from __future__ import annotations

import struct

import pytest

from dynlog.errors import MalformedEvent
from dynlog.kvevents import Kind, KvEvent, Tier, pack_hashes
from dynlog.migrations.radix_snapshot import PROFILES, Profile, decode_radix_snapshot

TIERED = Profile("tiered", storage_tier=True, start_position=True)

EVENTS = [
    KvEvent(7, Kind.STORED, pack_hashes([11, 12]), pack_hashes([21, 22]), parent_hash=None, event_id=0),
    KvEvent(2**64 - 1, Kind.STORED, pack_hashes([13]), pack_hashes([2**64 - 1]), parent_hash=12, dp_rank=3, event_id=1),
    KvEvent(7, Kind.REMOVED, pack_hashes([12, 99]), dp_rank=1, event_id=2),
    KvEvent(8, Kind.CLEARED, event_id=3),
]


def bincode(events: list[KvEvent], profile: Profile, *, multimodal: bytes | None = None) -> bytes:
    """What serde's bincode 1 writes, field after field; written from the format's description, not from the decoder."""
    body = struct.pack("<Q", len(events))
    for event in events:
        body += struct.pack("<Q", event.worker_id)
        if profile.storage_tier:
            body += struct.pack("<I", event.tier)
        body += struct.pack("<QI", event.event_id, event.kind)
        count = len(event.block_hashes) // 8
        if event.kind == Kind.STORED:
            body += b"\0" if event.parent_hash is None else b"\1" + struct.pack("<Q", event.parent_hash)
            if profile.start_position:
                body += b"\0" if event.start_position is None else b"\1" + struct.pack("<I", event.start_position)
            body += struct.pack("<Q", count)
            for i in range(0, 8 * count, 8):
                body += event.block_hashes[i : i + 8] + event.tokens_hashes[i : i + 8]
                if profile.mm_extra_info:
                    body += b"\0" if multimodal is None else b"\1" + multimodal
        elif event.kind == Kind.REMOVED:
            body += struct.pack("<Q", count) + event.block_hashes
        body += struct.pack("<I", event.dp_rank)
    return body


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_snapshot_of_every_known_release_is_recognised_by_itself(profile: Profile) -> None:
    assert decode_radix_snapshot(bincode(EVENTS, profile)) == EVENTS


def test_tier_and_start_position_are_kept() -> None:
    events = [event._replace(tier=Tier.DISK) for event in EVENTS]
    events[0] = events[0]._replace(start_position=64)
    assert decode_radix_snapshot(bincode(events, PROFILES[-1])) == events


def test_multimodal_details_are_passed_over_and_the_hashes_kept() -> None:
    details = struct.pack("<Q", 1) + struct.pack("<QQ", 5, 2) + struct.pack("<4Q", 0, 4, 8, 12)
    assert decode_radix_snapshot(bincode(EVENTS, PROFILES[1], multimodal=details)) == EVENTS


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_snapshot_cut_off_at_any_byte_is_refused(profile: Profile) -> None:
    body = bincode(EVENTS, profile)
    for size in range(len(body)):
        with pytest.raises(MalformedEvent, match=f"^{size} bytes are no Dynamo router snapshot"):
            decode_radix_snapshot(body[:size])


@pytest.mark.parametrize("extra", [1, 4, 8, 24])
def test_anything_left_over_is_refused_and_its_place_named(extra: int) -> None:
    body = bincode(EVENTS, PROFILES[0])
    with pytest.raises(MalformedEvent, match=f"{extra} bytes left over after 4 events, at offset {len(body)}"):
        decode_radix_snapshot(body + bytes(extra))


def test_a_release_that_no_profile_describes_is_refused_with_every_reason() -> None:
    with pytest.raises(MalformedEvent) as refused:
        decode_radix_snapshot(bincode(EVENTS, TIERED))
    assert all(profile.name in str(refused.value) for profile in PROFILES)
    assert decode_radix_snapshot(bincode(EVENTS, TIERED), [TIERED]) == EVENTS


def test_a_body_that_two_profiles_read_differently_is_refused() -> None:
    positions, multimodal = Profile("positions", start_position=True), Profile("multimodal", mm_extra_info=True)
    # Eight removed hashes, which shifted by what the first event's start position takes up are a store of three blocks.
    disguised = struct.pack("<IBQ", Kind.STORED, 0, 3) + struct.pack("<QQB", 1, 2, 0) * 3
    first = KvEvent(7, Kind.STORED, start_position=0)
    body = bincode([first, KvEvent(8, Kind.REMOVED, disguised, event_id=1)], positions)
    readings = [decode_radix_snapshot(body, [profile]) for profile in (positions, multimodal)]
    assert [len(events) for events in readings] == [2, 2]
    with pytest.raises(MalformedEvent, match="can be read as positions and as multimodal, with different events"):
        decode_radix_snapshot(body, [positions, multimodal])


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8 + 16, b"\3\0\0\0", "event variant 3 at offset 24"),
        (8 + 20, b"\2", "tag at offset 28 is 2"),
        (0, b"\xff" * 8, "18446744073709551615 items announced at offset 0"),
        (8 + 21, b"\xff" * 8, "18446744073709551615 items announced at offset 29"),
    ],
)
def test_a_damaged_field_is_named_with_its_offset(offset: int, value: bytes, reason: str) -> None:
    body = bytearray(bincode(EVENTS, PROFILES[0]))
    body[offset : offset + len(value)] = value
    with pytest.raises(MalformedEvent, match=reason):
        decode_radix_snapshot(bytes(body))


def test_an_unknown_storage_tier_is_refused() -> None:
    body = bytearray(bincode(EVENTS, TIERED))
    body[16:20] = struct.pack("<I", 9)
    with pytest.raises(MalformedEvent, match="storage tier 9 at offset 16"):
        decode_radix_snapshot(bytes(body), [TIERED])


def test_an_empty_router_is_an_empty_snapshot() -> None:
    assert decode_radix_snapshot(bytes(8)) == []
