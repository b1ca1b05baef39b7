"""What a mirror tells of itself: how far it is, how far behind, and what it did since it began."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["in", "out"]


@dataclass(slots=True)
class Counts:
    """In messages or records, since the mirror was opened.

    ``copied`` are in the target now because of this mirror; ``already`` were there; ``returned`` had been there before
    and were not sent back; ``left_out`` cannot be held by the target (the book names each); ``missed`` were gone from
    the source before the mirror came to them.
    """

    copied: int = 0
    already: int = 0
    returned: int = 0
    left_out: int = 0
    missed: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {
            "copied": self.copied, "already": self.already, "returned": self.returned, "left_out": self.left_out,
            "missed": self.missed,
        }  # fmt: skip


@dataclass(slots=True)
class Standing:
    """Where a mirror stands; ``behind`` counts what it saw in the source and has not done yet.

    ``position`` is the stream sequence (in) or by partition the offset (out) up to which all is done.
    """

    direction: Direction
    source: str
    target: str
    position: int | dict[int, int] | None = None
    behind: int = 0
    seconds_behind: float = 0.0
    outage: str = ""
    counts: Counts = field(default_factory=Counts)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "direction": self.direction, "source": self.source, "target": self.target, "position": self.position,
            "behind": self.behind, "seconds_behind": round(self.seconds_behind, 3), "outage": self.outage,
            **self.counts.as_dict(),
        }  # fmt: skip
