"""JetStream's key-value buckets: their settings, and every revision that is left of every key."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.messages import StreamMessage
from dynlog.adapters.nats.streams import StreamInfo, list_streams, read_stream

_STREAM = "KV_"
_SUBJECTS = "$KV."
_GONE_BY_AGE_OR_PURGE = ("MaxAge", "Purge")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


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
    """The bucket that it is a copy of; its keys lie at that bucket's subjects."""


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
    buckets = [_bucket(info) for info in await list_streams(server)]
    return [bucket for bucket in buckets if bucket is not None]


async def read_kv(server: NatsServer, bucket: KvBucketInfo, *, last: int) -> AsyncGenerator[KvEntry, None]:
    """Every revision up to ``last`` that is left, in order; see `read_stream` for what it raises."""
    prefix = f"{_SUBJECTS}{bucket.mirror_of or bucket.name}."
    async with aclosing(
        read_stream(server, bucket.info, first=bucket.info.first_seq, last=last, subject=f"{prefix}>")
    ) as messages:
        async for message in messages:
            yield read_entry(message, prefix)


def read_entry(message: StreamMessage, prefix: str) -> KvEntry:
    """The revision that a message of a bucket is; ``prefix`` is what its subject has before the key."""
    headers = message.headers or {}
    op = KvOp.PUT
    said, reason = _first(headers, "KV-Operation"), _first(headers, "Nats-Marker-Reason")
    if said in ("DEL", "PURGE"):
        op = KvOp(said)
    elif reason:
        op = KvOp.PURGE if reason in _GONE_BY_AGE_OR_PURGE else KvOp.DEL
    return KvEntry(
        message.subject.removeprefix(prefix), message.data if op is KvOp.PUT else None, message.sequence, op,
        message.time_ns, ttl_seconds(_first(headers, "Nats-TTL")),
    )  # fmt: skip


def ttl_seconds(text: str) -> float | None:
    """The seconds of a ``Nats-TTL`` header (``60``, ``1h30m``); None for ``never`` and for what is none."""
    if text.isascii() and text.isdigit():
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _bucket(info: StreamInfo) -> KvBucketInfo | None:
    name, config = info.name.removeprefix(_STREAM), info.config
    mirror = (config.get("mirror") or {}).get("name")
    if name == info.name or not (f"{_SUBJECTS}{name}.>" in info.subjects or (mirror or "").startswith(_STREAM)):
        return None
    return KvBucketInfo(
        name, info, max(config.get("max_msgs_per_subject", 1), 1), config.get("max_age", 0) / 1e9,
        config.get("max_msg_size", -1), config.get("max_bytes", -1), config.get("description") or "",
        (config.get("compression") or "none") != "none", info.metadata,
        mirror.removeprefix(_STREAM) if mirror else None,
    )  # fmt: skip


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    for key, values in headers.items():
        if key.lower() == name.lower():
            return values[0]
    return ""
