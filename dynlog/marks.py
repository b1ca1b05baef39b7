"""The rule that makes repetition harmless: what one producer's next record in one partition may be.

Used inside the append by engines that can check marks in their transaction, and by the reader's dedupe table for those
that cannot; both therefore decide alike, by log order:

* an epoch below the highest seen is a zombie's: fenced;
* a higher epoch starts a new count; a first-seen sequence is a baseline, whatever its number;
* a sequence above the last is new (foreign sources may skip numbers); one at or below it is a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from dynlog.codec import MarkRun

REMEMBERED_RUNS = 16
"""How many stretches of (sequence, offset) an entry remembers, so that a repeat is told its first offsets."""
UNKNOWN_OFFSET = -1
"""The offset of a repeat whose first append is no longer remembered: it is in the log, or was."""
EXPIRY_MS = 24 * 3600 * 1000
"""An entry expires this long (in log time) after its producer's last record."""


class Verdict(Enum):
    """What a record is by its mark."""

    NEW = "new"
    REPEAT = "repeat"
    FENCED = "fenced"


class Stretch(NamedTuple):
    """``length`` sequences from ``sequence`` lie at the offsets from ``offset``."""

    sequence: int
    length: int
    offset: int


@dataclass(slots=True)
class MarkState:
    """What is known of one producer in one partition."""

    epoch: int
    last: int = -1
    seen_ms: int = 0
    stretches: list[Stretch] = field(default_factory=list)

    def judge(self, epoch: int, sequence: int) -> Verdict:
        """What a record with that mark is now."""
        if epoch < self.epoch:
            return Verdict.FENCED
        if epoch > self.epoch or sequence > self.last:
            return Verdict.NEW
        return Verdict.REPEAT

    def new_part(self, run: MarkRun) -> int:
        """How many records at the head of the run are repeats; the rest is new.  The run must not be fenced."""
        if run.epoch > self.epoch:
            return 0
        return min(max(self.last + 1 - run.sequence, 0), run.length)

    def accept(self, epoch: int, sequence: int, length: int, offset: int, log_time_ms: int) -> None:
        """Takes note of ``length`` new records that lie at the offsets from ``offset``."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.stretches.clear()
        self.last = sequence + length - 1
        self.seen_ms = max(self.seen_ms, log_time_ms)
        if self.stretches:
            last = self.stretches[-1]
            if last.sequence + last.length == sequence and last.offset + last.length == offset:
                self.stretches[-1] = Stretch(last.sequence, last.length + length, last.offset)
                return
        self.stretches.append(Stretch(sequence, length, offset))
        del self.stretches[:-REMEMBERED_RUNS]

    def first_offset(self, sequence: int) -> int:
        """Where the record with that sequence was first stored, or UNKNOWN_OFFSET."""
        for stretch in reversed(self.stretches):
            if stretch.sequence <= sequence < stretch.sequence + stretch.length:
                return stretch.offset + sequence - stretch.sequence
        return UNKNOWN_OFFSET
