"""How a live projection stands, as data: what a person asks first, and what metrics and probes are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from dynlog.replay import RebuildReport


class Phase(Enum):
    """Where a live projection stands."""

    REBUILDING = "rebuilding"
    FOLLOWING = "following"
    STALE = "stale"  # the log cannot be read now; the state answers as it was
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """What a person asks first; times are milliseconds since the epoch."""

    phase: Phase
    ready: bool
    stale_since_ms: int | None
    lag: int
    positions: Mapping[int, int]
    records: int
    rebuilds: int
    rebuild: RebuildReport | None
    snapshots: int
    snapshot_failures: int
    last_snapshot_ms: int | None
    last_error: str | None
