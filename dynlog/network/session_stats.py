"""What a session has done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """What a session has done so far; counts only grow, the last five are what is held now."""

    records_sent: int
    records_received: int
    batches_sent: int
    batches_received: int
    bytes_sent: int
    bytes_received: int
    resent: int
    """Records that were sent again on another channel."""
    repeats: int
    """Records that came again and were dropped."""
    late: int
    """Records for streams that were over, dropped."""
    old_frames: int
    """Frames of channels that no longer counted, dropped."""
    channels: int
    streams: int
    unacknowledged_records: int
    unacknowledged_bytes: int
    unacknowledged_limit: int
    round_trip: float | None
    """Of the last PING that was answered, in seconds."""
