"""A message of any size becomes records of a bounded one; what they say together is what the message said."""

from __future__ import annotations

from collections.abc import Sequence

from dynlog.kvevents import HEAD, Kind, KvEvent

MAX_RECORD_BYTES = 256 << 10
"""Columns of one record; a message above it is split, an event above it becomes a chain of events."""


def event_groups(events: Sequence[KvEvent]) -> list[list[KvEvent]]:
    """The events in order, one group for each record; one empty group for no events."""
    groups: list[list[KvEvent]] = [[]]
    room = MAX_RECORD_BYTES
    for event in events:
        for piece in _pieces(event):
            cost = HEAD.size + len(piece.block_hashes) + len(piece.tokens_hashes)
            if cost > room and groups[-1]:
                groups.append([])
                room = MAX_RECORD_BYTES
            groups[-1].append(piece)
            room -= cost
    return groups


def _pieces(event: KvEvent) -> list[KvEvent]:
    """An event that is too large for one record, as a chain of events that says the same."""
    step = MAX_RECORD_BYTES // 4
    if len(event.block_hashes) <= step:
        return [event]
    pieces = []
    for at in range(0, len(event.block_hashes), step):
        piece = event._replace(
            block_hashes=event.block_hashes[at : at + step], tokens_hashes=event.tokens_hashes[at : at + step]
        )
        if at and event.kind is Kind.STORED:
            piece = piece._replace(parent_hash=int.from_bytes(event.block_hashes[at - 8 : at], "little"))
        pieces.append(piece)
    return pieces
