"""What the fold counted; every refusal and every oddity is in here, nothing is dropped in silence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum


class Outcome(IntEnum):
    """What became of an event."""

    APPLIED = 0
    UNKNOWN_PARENT = 1  # the rank holds no such parent: nothing was stored
    MALFORMED = 2  # a block would be its own parent or ancestor: nothing was stored


@dataclass(slots=True)
class Counters:
    """Totals since the state began; part of the state, so a snapshot carries them."""

    records: int = 0
    rejected_records: int = 0  # columns that no release of dynlog wrote; skipped whole
    events: int = 0
    event_id_repeats: int = 0  # an id not above the rank's last; the event was applied
    event_id_gaps: int = 0  # an id more than one above the rank's last; the event was applied
    blocks_stored: int = 0  # blocks that became held
    blocks_repeated: int = 0  # blocks stored where they were held already
    blocks_removed: int = 0  # blocks that a removed event ended
    blocks_unknown: int = 0  # blocks named by a removed event and not held
    unknown_parents: int = 0  # stored events refused
    malformed: int = 0  # stored events refused
    cleared: int = 0
    workers_removed: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name, for snapshots and status pages."""
        return asdict(self)
