"""The object store: buckets, what lies in them, and an object's bytes, checked against its own count, size and digest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo


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
    ``problem`` is not empty where the meta message cannot be read: then the name and ``sequence`` are all that is known.
    """

    bucket: str
    name: str
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime: int
    description: str
    headers: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, str]
    deleted: bool
    link: tuple[str, str | None] | None
    sequence: int
    max_chunk: int
    problem: str = ""


async def object_buckets(server: NatsServer) -> list[ObjectBucket]:
    """All buckets of the object store, by name."""
    raise NotImplementedError


async def list_objects(server: NatsServer, bucket: ObjectBucket) -> list[NatsObject]:
    """All objects of the bucket, deleted markers too, by name."""
    raise NotImplementedError


async def find_object(server: NatsServer, bucket: str, name: str) -> NatsObject:
    """One object as it is now; raises SourceNotFound."""
    raise NotImplementedError


async def resolve_link(server: NatsServer, object: NatsObject) -> NatsObject:
    """What a link leads to in the end, or the object itself if it is none.

    Raises SourceNotFound for a link to nothing or to a whole bucket, SourceDamaged for links in a circle.
    """
    raise NotImplementedError


async def read_object(server: NatsServer, object: NatsObject) -> AsyncGenerator[bytes, None]:
    """The object's bytes, chunk by chunk; it ends without an error only if count, size and SHA-256 are right.

    Raises SourceDamaged naming what is missing or wrong, SourceChanged if the object was deleted or replaced meanwhile,
    SourceNotFound for a deleted marker or a link (see `resolve_link`).
    """
    raise NotImplementedError
    yield
