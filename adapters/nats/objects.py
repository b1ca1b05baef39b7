"""The object store: buckets, what lies in them, and an object's bytes, checked by its count, size and digest."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.object_meta import (
    META,
    NatsObject,
    ObjectBucket,
    meta_subject,
    read_bucket,
    read_meta,
    stream_of,
)
from dynlog.adapters.nats.streams import get_message, list_streams, read_stream, stream_info
from dynlog.errors import SourceChanged, SourceDamaged, SourceNotFound

__all__ = [
    "NatsObject", "ObjectBucket", "find_object", "list_objects", "object_buckets", "read_object", "resolve_link",
]  # fmt: skip

MAX_LINKS = 16


async def object_buckets(server: NatsServer) -> list[ObjectBucket]:
    """All buckets of the object store, by name."""
    buckets = [read_bucket(info) for info in await list_streams(server)]
    return [bucket for bucket in buckets if bucket is not None]


async def list_objects(server: NatsServer, bucket: ObjectBucket) -> list[NatsObject]:
    """All objects of the bucket as they are at its last sequence, deleted markers too, by name."""
    found: dict[str, NatsObject] = {}
    info = await stream_info(server, bucket.info.name)
    async with aclosing(
        read_stream(server, info, first=info.first_seq, last=info.last_seq, subject=META.format(bucket=bucket.name))
    ) as messages:
        async for message in messages:
            found[message.subject] = read_meta(bucket.name, message)
    return sorted(found.values(), key=lambda object: (object.name, object.sequence))


async def find_object(server: NatsServer, bucket: str, name: str) -> NatsObject:
    """One object as it is now; raises SourceNotFound."""
    try:
        message = await get_message(server, stream_of(bucket), last_by_subj=meta_subject(bucket, name))
    except SourceNotFound:
        raise SourceNotFound(f"there is no bucket {bucket!r} at {server.shown}, so no object {name!r}") from None
    if message is None:
        raise SourceNotFound(f"bucket {bucket!r} at {server.shown} has no object {name!r}")
    return read_meta(bucket, message)


async def resolve_link(server: NatsServer, object: NatsObject) -> NatsObject:
    """What a link leads to in the end, or the object itself if it is none.

    Raises SourceNotFound for a link to nothing or to a whole bucket, SourceDamaged for links in a circle.
    """
    begun, passed = object, 0
    while object.link is not None:
        bucket, name = object.link
        if name is None:
            raise SourceNotFound(f"{begun.place} is a link to the whole bucket {bucket!r}")
        if (passed := passed + 1) > MAX_LINKS:
            raise SourceDamaged(f"{begun.place} is a link that leads in a circle, or over more than {MAX_LINKS} others")
        object = await find_object(server, bucket, name)
        if object.deleted:
            raise SourceNotFound(f"{begun.place} is a link to {object.place}, which was deleted")
    return object


async def read_object(server: NatsServer, object: NatsObject) -> AsyncGenerator[bytes, None]:
    """The object's bytes, chunk by chunk; it ends without an error only if count, size and SHA-256 are right.

    Raises SourceDamaged naming what is missing or wrong, SourceChanged if the object was deleted or replaced meanwhile,
    SourceNotFound for a deleted marker or a link (see `resolve_link`), and what `read_stream` does.
    """
    digest = _checked(object)
    sums, chunks, size = hashlib.sha256(), 0, 0
    if object.chunks:
        try:
            info = await stream_info(server, stream_of(object.bucket))
        except SourceNotFound:
            raise SourceChanged(f"{object.place}: the bucket was deleted before the object was read") from None
        subject = f"$O.{object.bucket}.C.{object.nuid}"
        # Chunks are stored before their meta message.
        async with aclosing(
            read_stream(server, info, first=info.first_seq, last=object.sequence, subject=subject)
        ) as messages:
            async for message in messages:
                chunks, size = chunks + 1, size + len(message.data)
                if size > object.size:
                    break
                sums.update(message.data)
                yield message.data
                if chunks == object.chunks:
                    break
    wrong = ""
    if (chunks, size) != (object.chunks, object.size):
        wrong = f"{chunks} of {object.chunks} chunks are there, with {size} of {object.size} bytes"
    elif sums.digest() != digest:
        wrong = f"its bytes have SHA-256 {_text(sums.digest())}, {object.digest!r} was stored with them"
    if wrong:
        await _check_same(server, object, wrong)
        raise SourceDamaged(f"{object.place}: {wrong}")


def _checked(object: NatsObject) -> bytes:
    """The digest of an object that can be read."""
    if object.problem:
        raise SourceDamaged(f"{object.place}: {object.problem}")
    if object.deleted:
        raise SourceNotFound(f"{object.place} was deleted")
    if object.link is not None:
        raise SourceNotFound(f"{object.place} is a link to {'/'.join(filter(None, object.link))}, without bytes")
    kind, _, text = object.digest.partition("=")
    try:
        digest = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        digest = b""
    if kind.upper() != "SHA-256" or len(digest) != hashlib.sha256().digest_size:
        raise SourceDamaged(f"{object.place}: its digest {object.digest!r} is no SHA-256, so it cannot be checked")
    return digest


async def _check_same(server: NatsServer, object: NatsObject, wrong: str) -> None:
    """Raises SourceChanged if that is why an object is not whole."""
    try:
        now = await find_object(server, object.bucket, object.name)
    except SourceNotFound:
        raise SourceChanged(f"{object.place} went away while it was read ({wrong})") from None
    if now.deleted or now.nuid != object.nuid:
        what = "deleted" if now.deleted else "replaced"
        raise SourceChanged(f"{object.place} was {what} while it was read ({wrong})")


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode()
