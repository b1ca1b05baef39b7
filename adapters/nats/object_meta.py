"""What the object store says of buckets and objects, checked before anybody trusts it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dynlog.adapters.nats.messages import StreamMessage
from dynlog.adapters.nats.streams import StreamInfo

META = "$O.{bucket}.M.>"
_STREAM = "OBJ_"
_NUID = re.compile(r"[^\x00-\x20\x7f.*>]+")


@dataclass(frozen=True, slots=True)
class ObjectBucket:
    """A bucket of the object store; its stream is ``OBJ_<name>``."""

    name: str
    info: StreamInfo
    description: str
    sealed: bool
    compressed: bool
    ttl_s: float
    """0 for none."""
    max_bytes: int
    """-1 for no bound."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NatsObject:
    """What the meta message of an object says; ``mtime`` is when that was stored, in nanoseconds since the epoch.

    ``link`` is (bucket, name), the name None for a link to a whole bucket.  ``digest`` is ``SHA-256=<base64url>``.
    Where ``problem`` is not empty, the meta message cannot be read: the name and ``sequence`` are all that is known.
    """

    bucket: str
    name: str
    nuid: str = ""
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: int = 0
    description: str = ""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False
    link: tuple[str, str | None] | None = None
    sequence: int = 0
    max_chunk: int = 0
    problem: str = ""

    @property
    def place(self) -> str:
        """Bucket and name, for messages."""
        return f"object {self.name!r} of bucket {self.bucket!r}"


def _none_is_empty(value: Any) -> Any:
    return {} if value is None else value


def _lists_of_values(value: Any) -> Any:
    """nats-py writes one value of a header where other clients write a list of them."""
    if not isinstance(value, dict):
        return _none_is_empty(value)
    return {name: [values] if isinstance(values, str) else values for name, values in value.items()}


class _Link(BaseModel):
    bucket: str
    name: str | None = None


class _Options(BaseModel):
    link: _Link | None = None
    max_chunk_size: int | None = None


class _Meta(BaseModel):
    """The JSON of a meta message, of which clients leave out what is empty."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: str
    bucket: str | None = None
    nuid: str | None = None
    size: int | None = Field(default=None, ge=0)
    chunks: int | None = Field(default=None, ge=0)
    digest: str | None = None
    description: str | None = None
    headers: Annotated[dict[str, list[str]], BeforeValidator(_lists_of_values)] = {}
    metadata: Annotated[dict[str, str], BeforeValidator(_none_is_empty)] = {}
    deleted: bool | None = None
    options: _Options | None = None


def stream_of(bucket: str) -> str:
    """The stream of a bucket."""
    return f"{_STREAM}{bucket}"


def meta_subject(bucket: str, name: str) -> str:
    """Where an object's meta message lies."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def read_bucket(info: StreamInfo) -> ObjectBucket | None:
    """The bucket of a stream; None for a stream that is none."""
    name, config = info.name.removeprefix(_STREAM), info.config
    if name == info.name or META.format(bucket=name) not in info.subjects:
        return None
    return ObjectBucket(
        name, info, config.get("description") or "", bool(config.get("sealed")),
        (config.get("compression") or "none") != "none", config.get("max_age", 0) / 1e9, config.get("max_bytes", -1),
        info.metadata,
    )  # fmt: skip


def read_meta(bucket: str, message: StreamMessage) -> NatsObject:
    """The object of a meta message, or its name and what is wrong with the message."""
    token = message.subject.rpartition(".")[2]
    try:
        name = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        return _unread(bucket, token, message, "its meta message lies at a subject that is no name in base64")
    try:
        meta = _Meta.model_validate(json.loads(message.data))
    except (ValidationError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False)[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        else:
            said = str(error)
        return _unread(bucket, name, message, f"its meta message cannot be read: {said}")
    if meta.name != name:
        return _unread(bucket, name, message, f"its meta message is one of {meta.name!r}")
    options = meta.options or _Options()
    object = NatsObject(
        bucket, name, meta.nuid or "", meta.size or 0, meta.chunks or 0, meta.digest or "", message.time_ns,
        meta.description or "", {key: tuple(values) for key, values in meta.headers.items()}, meta.metadata,
        bool(meta.deleted), (options.link.bucket, options.link.name or None) if options.link else None,
        message.sequence, options.max_chunk_size or 0,
    )  # fmt: skip
    if not object.deleted and object.link is None and not _NUID.fullmatch(object.nuid):
        return _unread(bucket, name, message, f"its meta message names no chunks: its nuid is {object.nuid!r}")
    return object


def _unread(bucket: str, name: str, message: StreamMessage, problem: str) -> NatsObject:
    return NatsObject(bucket, name, mtime=message.time_ns, sequence=message.sequence, problem=problem)
