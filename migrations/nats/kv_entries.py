"""A revision of a JetStream key as a fact of a dynlog bucket, and which keys are none of ours to carry.

* **A put keeps the time that it has left**, by the NATS server's clock; one whose time is over is a deletion, so that
  no older value stands in its place.
* **What does not fit is a deletion, too, and is named**: a stale value that looks present would be worse than none.
* Keys of live instances hang on their process: they are listed, and the process writes them anew where it comes up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from dynlog.adapters.nats.kv import KvBucketInfo, KvEntry, KvOp, read_entry
from dynlog.adapters.nats.streams import StreamMessage
from dynlog.discovery.names import INSTANCES
from dynlog.errors import MalformedRecord
from dynlog.kv.records import Delete, Fact, Purge, Put, encode_key, to_record
from dynlog.kv.settings import MAX_TTL_S, BucketSettings, value_limit
from dynlog.migrations.mirror.inbound import SOURCE, producer_of
from dynlog.migrations.nats.model_buckets import NO_REFERENCES, References
from dynlog.record import Mark, Record

MAX_HISTORY = 64
_BUCKETS_OF_INSTANCES = re.compile(r"(v1[-_])?instances")
_LIVE = (INSTANCES, INSTANCES.removeprefix("v1/"))


def is_of_an_instance(bucket: str, key: str) -> bool:
    """Whether the key is bound to a live process of Dynamo's."""
    return _BUCKETS_OF_INSTANCES.fullmatch(bucket) is not None or key.startswith(_LIVE)


def settings_for(bucket: KvBucketInfo, max_batch_bytes: int) -> BucketSettings:
    """How the bucket is kept here: what the log cannot keep of NATS's settings is left at its default."""
    most = value_limit(BucketSettings(), max_batch_bytes)
    return BucketSettings(
        history=min(bucket.history, MAX_HISTORY),
        max_value_bytes=bucket.max_value if 0 <= bucket.max_value <= most else None,
        ttl_s=min(bucket.ttl_s, MAX_TTL_S) if bucket.ttl_s >= 0.001 else None,
    )


class Written(NamedTuple):
    """What a revision becomes: records (none for what is not ours) and why its value is not among them."""

    records: tuple[Record, ...]
    refused: str = ""


def key_prefix(bucket: KvBucketInfo) -> str:
    """What the subjects of its keys begin with."""
    return f"$KV.{bucket.mirror_of or bucket.name}."


def producers_of(place: str) -> tuple[str, str]:
    """The producers of the marks of what is moved from that place."""
    return producer_of(place), f"{producer_of(place)}:purge"


@dataclass(frozen=True, slots=True)
class EntryRules:
    """How the revisions of one bucket are written."""

    bucket: KvBucketInfo
    place: str
    most_value: int
    references: References = NO_REFERENCES
    """Model cards are values, and the files that they refer to move as well."""

    @property
    def producers(self) -> tuple[str, str]:
        """Of the records' marks: of each revision's own, and of the purge that stands behind a deletion."""
        return producers_of(self.place)

    def entry(self, message: StreamMessage) -> KvEntry:
        """The revision."""
        entry = read_entry(message, key_prefix(self.bucket))
        rewritten = None if entry.value is None else self.references.rewritten(entry.value)
        return entry if rewritten is None else replace(entry, value=rewritten)

    def left_s(self, entry: KvEntry, message: StreamMessage, now_ns: int) -> float | None:
        """The seconds that its value has left by the server's clock, 0 if none; None if it stays."""
        if message.headers and any(
            "never" in values for name, values in message.headers.items() if name.lower() == "nats-ttl"
        ):
            return None
        lives = [ttl for ttl in (entry.ttl, self.bucket.ttl_s or None) if ttl is not None]
        return max(min(lives) - (now_ns - entry.time_ns) / 1e9, 0.0) if lives else None

    def name(self, entry: KvEntry) -> str:
        """How the revision is named in reports; of a key that cannot be, all revisions are one."""
        key = f"{self.bucket.name} key {entry.key}"
        return key if _key_problem(entry.key) else f"{key} (revision {entry.revision})"

    def why_not(self, entry: KvEntry) -> str:
        """Why the revision cannot stand in the log as it is; empty if it can."""
        return _key_problem(entry.key) or self._value_problem(entry.value or b"")

    def _value_problem(self, value: bytes) -> str:
        if len(value) <= self.most_value:
            return ""
        return (
            f"a value of {len(value)} bytes, over the {self.most_value} that this log takes for one: the key is not "
            "there; put the value into an object store, or raise max_batch_bytes in the log's URL and migrate the "
            "bucket anew"
        )

    def write(self, message: StreamMessage, now_ns: int) -> Written:
        """The records."""
        entry = self.entry(message)
        if is_of_an_instance(self.bucket.name, entry.key):
            return Written(())
        if why := _key_problem(entry.key):
            return Written((), why)
        if why := self._value_problem(entry.value or b""):
            return Written(self._gone(entry), why)
        if entry.op is not KvOp.PUT or entry.value is None:
            purge = (self._record(Purge(entry.key), entry, 1),) if entry.op is KvOp.PURGE else ()
            return Written((*self._gone(entry), *purge))
        left = self.left_s(entry, message, now_ns)
        if left is not None and left < 0.001:
            return Written(self._gone(entry))
        ttl_ms = 0 if left is None else round(min(left, MAX_TTL_S) * 1000)
        return Written((self._record(Put(entry.key, entry.value, "", ttl_ms), entry, 0),))

    def _gone(self, entry: KvEntry) -> tuple[Record, ...]:
        return (self._record(Delete(entry.key), entry, 0),)

    def _record(self, fact: Fact, entry: KvEntry, which: int) -> Record:
        plain = to_record(fact)
        headers = {SOURCE: f"{self.place}/{entry.revision}/{entry.time_ns}".encode()}
        mark = Mark(self.producers[which], 0, entry.revision)
        return Record(plain.parts, plain.key, headers, None, entry.time_ns // 1_000_000, mark)


def _key_problem(key: str) -> str:
    try:
        encode_key(key)
    except MalformedRecord as error:
        return str(error)
    return ""
