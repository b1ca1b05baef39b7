"""What NATS knows of an object and a store has no place for: kept whole, as JSON, in the copy's metadata or beside."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from dynlog.adapters.nats.objects import NatsObject
from dynlog.migrations.nats.contract import MADE_BY
from dynlog.migrations.nats.keys import details_key
from dynlog.objects import ObjectInfo, ObjectStore

DETAILS = "nats-object"
"""Metadata name of the details as JSON."""
DETAILS_AT = "nats-object-at"
"""Metadata name of the key of the object that holds the details, where they are too long for metadata."""
DIGEST = "nats-digest"
MOST_BYTES = 1200
"""Longer details lie beside: metadata has 2,048 bytes in all, and S3 escapes some characters."""


class Details(BaseModel):
    """An object as its bucket knows it.  ``link`` is set for a link: its copy has the bytes that it leads to."""

    model_config = ConfigDict(frozen=True)

    bucket: str
    name: str
    description: str = ""
    headers: dict[str, list[str]] = {}
    metadata: dict[str, str] = {}
    link: tuple[str, str | None] | None = None
    nuid: str
    sequence: int
    modified_ns: int
    digest: str
    size: int
    max_chunk: int = 0


class Described(NamedTuple):
    """The metadata of a copy, and the details that are to lie beside it, if they are too long."""

    metadata: dict[str, str]
    beside: bytes | None


def details_of(object: NatsObject, content: NatsObject) -> Details:
    """The details of an object whose bytes are those of ``content`` (itself, or what the link leads to)."""
    return Details(
        bucket=object.bucket,
        name=object.name,
        description=object.description,
        headers={name: list(values) for name, values in object.headers.items()},
        metadata=dict(object.metadata),
        link=object.link,
        nuid=object.nuid,
        sequence=object.sequence,
        modified_ns=object.mtime,
        digest=content.digest,
        size=content.size,
        max_chunk=object.max_chunk,
    )


def describe(details: Details, key: str, migration: str) -> Described:
    """The copy's metadata."""
    text = details.model_dump_json(exclude_defaults=True).replace("\x7f", "\\u007f")
    metadata = {MADE_BY: migration, DIGEST: details.digest or "none"}
    if len(text.encode("utf-8", "replace")) <= MOST_BYTES and text.isascii() and text.isprintable():
        return Described(metadata | {DETAILS: text}, None)
    return Described(metadata | {DETAILS_AT: details_key(key)}, text.encode("utf-8", "surrogatepass"))


async def read_details(store: ObjectStore, info: ObjectInfo) -> Details | None:
    """The details of a copy; None if it has none that can be read.  Raises what `ObjectStore.get_bytes` raises."""
    text: str | bytes | None = info.metadata.get(DETAILS)
    if text is None and DETAILS_AT in info.metadata:
        text = await store.get_bytes(info.metadata[DETAILS_AT])
    try:
        return None if text is None else Details.model_validate_json(text)
    except ValidationError:
        return None


def sha256_of(digest: str) -> str | None:
    """NATS's ``SHA-256=<base64url>`` as lower-case hex; None for one that is something else."""
    algorithm, equals, value = digest.partition("=")
    if not equals or algorithm.upper() != "SHA-256":
        return None
    try:
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None
