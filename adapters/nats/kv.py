"""JetStream's key-value buckets: their settings, and every revision that is left of every key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import Enum

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo


class KvOp(Enum):
    """What was done to a key; a DEL or PURGE is what is left of a key that is gone."""

    PUT = "PUT"
    DEL = "DEL"
    PURGE = "PURGE"


@dataclass(frozen=True, slots=True)
class KvBucketInfo:
    """A key-value bucket; its stream is ``KV_<name>``."""

    name: str
    info: StreamInfo
    history: int
    ttl_s: float
    """0 for none."""
    max_value: int
    """-1 for no bound."""
    max_bytes: int
    description: str
    compressed: bool
    metadata: Mapping[str, str]
    mirror_of: str | None
    """The stream that it is a copy of."""


@dataclass(frozen=True, slots=True)
class KvEntry:
    """One revision of a key; ``ttl`` is in seconds from ``time_ns``, None where the entry has none of its own."""

    key: str
    value: bytes | None
    revision: int
    op: KvOp
    time_ns: int
    ttl: float | None


async def kv_buckets(server: NatsServer) -> list[KvBucketInfo]:
    """All key-value buckets, by name."""
    raise NotImplementedError


async def read_kv(server: NatsServer, bucket: KvBucketInfo, *, last: int) -> AsyncGenerator[KvEntry, None]:
    """Every revision up to ``last`` that is left, in order; see `read_stream` for what it raises."""
    raise NotImplementedError
    yield
