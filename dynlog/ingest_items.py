"""What a source of foreign events hands to the ingest loop: records to store, input that it refused, and notices.

The order of the items is the order of the source.  Every record and every refusal carries a mark that the source
re-creates for the same input, so an ingest that is killed resumes and one that runs twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from dynlog.record import Mark, Record


class Taken(NamedTuple):
    """A record to store; ``on_stored`` is called with (partition, offset) once it is durable, in order."""

    record: Record
    events: int
    blocks: int
    on_stored: Callable[[int, int], None] | None = None


class Refused(NamedTuple):
    """Input that fits no profile: where it stood, why it was refused, and its bytes; it is parked and counted.

    ``on_stored`` is called as that of a record is, once it is parked.
    """

    source: str
    place: str
    reason: str
    raw: bytes
    mark: Mark | None
    events: int = 1
    on_stored: Callable[[int, int], None] | None = None


class NoticeKind(Enum):
    """What a person will ask about later; each is counted and logged."""

    GAP = "gap"  # batches were missing (whether or not they could be had afterwards)
    CLEAR = "clear"  # what a worker holds became unknown and was dropped
    DUPLICATE = "duplicate"  # the same batch came again and was left out
    UNVERIFIED = "unverified"  # continuity is assumed: there is no replay that could prove it
    OVERFLOW = "overflow"  # a bounded buffer was full; replay has to fill the gap
    WAITING = "waiting"  # there is no connection to a source, yet or any more
    UNREACHED = "unreached"  # and there has been none for so long that a person should know
    CONNECTED = "connected"
    SOURCES = "sources"  # the set of sources changed, or its file could not be read


class Noticed(NamedTuple):
    """Something happened at a source, ``times`` times (missing batches, duplicates)."""

    kind: NoticeKind
    source: str
    detail: str
    times: int = 1


Item = Taken | Refused | Noticed
