"""A record is the unit of truth: a key, headers, a multipart body, and a mark that makes its repetition harmless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

Buffer = bytes | memoryview
NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


class Control(IntEnum):
    """What a record means to the protocol that carries it; sentinels are control values, never magic bodies."""

    OPEN = 1
    DATA = 2
    END = 3
    ERROR = 4
    CANCEL = 5
    PING = 6
    PONG = 7
    GOAWAY = 8
    CREDIT = 9
    TOMBSTONE = 10
    BARRIER = 11


class Mark(NamedTuple):
    """Names one record of one producer: the same mark twice in a partition is the same record.

    Within a (producer, partition) sequences strictly increase; a higher epoch fences every lower one.  A foreign
    source's mark comes from the source itself (file digest and line; worker incarnation and ZMQ sequence).
    """

    producer_id: str
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a producer appends.

    ``timestamp_ms`` is the producer's own clock (milliseconds since the epoch, 0 if it has none); log time is the
    engine's and lies beside it in a `Batch`.
    """

    parts: tuple[Buffer, ...] = ()
    key: bytes | None = None
    headers: Mapping[str, bytes] = field(default_factory=lambda: NO_HEADERS)
    control: Control | None = None
    timestamp_ms: int = 0
    mark: Mark | None = None
