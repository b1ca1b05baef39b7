"""What a log says of itself: topics, partitions, holders, groups, capabilities.  Plain data, no behaviour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from dynlog.errors import ConfigurationError

EPHEMERAL_EXPIRY_S = 600.0
"""An ephemeral holder is dropped this long after its last heartbeat."""
NAMED_EXPIRY_S = 24 * 3600.0
"""A named holder expires this long after its last heartbeat, unless told otherwise."""
HOLDER_MAX_LAG_BYTES = 10 << 30
"""A holder is expelled once it keeps more than this from being truncated, unless told otherwise."""
MAX_PARTITIONS = 4096

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,248}")


def check_name(what: str, name: str) -> str:
    """A legal topic, group, holder or producer name; raises ConfigurationError naming the rule."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} name {name!r}: 1 to 249 characters of A-Z a-z 0-9 . _ : - are allowed, the first a letter or digit"
        )
    return name


class DurabilityLevel(Enum):
    """What an acknowledged append survives."""

    MEMORY = "memory"  # nothing: it is gone with the process
    PROCESS = "process"  # a killed process, not a power loss
    DISK = "disk"  # a power loss
    REPLICATED = "replicated"  # the loss of a machine


@dataclass(frozen=True, slots=True)
class Durability:
    """The level that an engine derives from its live configuration and declares."""

    level: DurabilityLevel
    replicas: int = 1

    def __str__(self) -> str:
        return f"replicated({self.replicas})" if self.level is DurabilityLevel.REPLICATED else self.level.value


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can and cannot do, as data; ``dynlog log describe`` shows it."""

    engine: str
    durability: Durability
    checks_marks: bool
    """Marks are checked inside the append; else the reader's dedupe table decides by log order."""
    fences_at_registration: bool
    """A zombie is refused as soon as its successor registered, not only once that has written."""
    compare_and_append: bool
    """``expect=`` is decided inside the append; else by log order, and what lost takes offsets but is a hole."""
    reads_latest: bool
    """`read` and `partitions` see every append that returned before the call, whoever made it; else one that comes to a
    deposed leader may not."""
    many_processes: bool
    single_host: bool
    max_batch_bytes: int
    server_time: bool = False
    """Log time is a server's clock, so it does not follow the clock with which the log was opened."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much a topic keeps when nobody holds it; None means without bound.  Age is measured in log time."""

    max_age_s: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_age_s", self.max_age_s), ("max_bytes", self.max_bytes)):
            if value is not None and value <= 0:
                raise ConfigurationError(f"retention {name}={value}: a number above zero is needed, or None")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it was created; ``incarnation`` changes when a topic of that name is created anew."""

    name: str
    incarnation: str
    partitions: int
    retention: Retention
    created_ms: int
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition now: offsets ``earliest <= o < end`` may exist; ``bytes`` is what it takes in the store."""

    partition: int
    earliest: int
    end: int
    bytes: int
    batches: int
    last_log_time_ms: int


class HolderKind(Enum):
    """How a holder ends."""

    EPHEMERAL = "ephemeral"  # a follower that is running: dropped soon after its last heartbeat
    NAMED = "named"  # a group or projection that comes back: expires late
    PINNED = "pinned"  # a snapshot: never expires, moves when a newer snapshot was verified


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who needs a topic from ``positions`` (partition to offset) on.

    ``max_lag_bytes`` bounds what it may keep from truncation; None takes the kind's default, PINNED has no bound.
    """

    name: str
    kind: HolderKind
    positions: Mapping[int, int]
    expires_after_s: float | None = None
    max_lag_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class HolderState:
    """A holder as the log knows it; ``expired`` holders no longer block truncation."""

    holder: Holder
    last_seen_ms: int
    lag_records: int
    expired: bool


@dataclass(frozen=True, slots=True)
class Truncation:
    """Outcome of a truncation: where the partition starts now, and who kept it from going as far as asked."""

    partition: int
    earliest: int
    requested: int
    blocked_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """Outcome of an append, record by record.

    ``offsets`` has one offset per record given: where it was stored now, or first (``duplicates`` of them were
    repeats by mark; UNKNOWN_OFFSET if where is no longer remembered).
    """

    partition: int
    offsets: tuple[int, ...]
    end_offset: int
    log_time_ms: int
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class GroupState:
    """What a consumer group committed on a topic; ``generation`` 0 and no positions if it never did."""

    group: str
    generation: int
    positions: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Something that a person will ask about later: an expelled holder, a forced truncation, a quarantine."""

    time_ms: int
    kind: str
    topic: str
    detail: str


@dataclass(frozen=True, slots=True)
class Damage:
    """One place where stored bytes fail their checksum or break the chain.

    ``start`` and ``end`` bound the offsets that cannot be read (end exclusive; -1 where that is unknown).
    """

    topic: str | None
    partition: int | None
    start: int
    end: int
    reason: str
