"""The object store: what lies there is listed whole, and an object's bytes are right or it is said what is wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from nats.js.api import ObjectMeta, ObjectMetaOptions, ObjectStoreConfig, StorageType
from nats.js.object_store import ObjectStore

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.objects import (
    NatsObject,
    find_object,
    list_objects,
    object_buckets,
    read_object,
    resolve_link,
)
from dynlog.adapters.nats.streams import stream_info
from dynlog.errors import SourceChanged, SourceDamaged, SourceNotFound
from tests.nats_source.source import Writer, all_of, name_of

CHUNK = 4096
BODY = os.urandom(5 * CHUNK + 17)


async def bucket_of(writer: Writer, **settings: Any) -> tuple[str, ObjectStore]:
    """A bucket of its own."""
    name = name_of("objects")
    config = ObjectStoreConfig(bucket=name, storage=StorageType.MEMORY, **settings)
    return name, await writer.js.create_object_store(name, config)


async def put(store: ObjectStore, name: str, body: bytes, **meta: Any) -> None:
    """An object in chunks of 4 KiB."""
    await store.put(name, body, meta=ObjectMeta(name=name, options=ObjectMetaOptions(max_chunk_size=CHUNK), **meta))


async def rewrite(writer: Writer, bucket: str, name: str, /, **changes: Any) -> None:
    """Stores another meta message of the object."""
    token = base64.urlsafe_b64encode(name.encode()).decode()
    subject = f"$O.{bucket}.M.{token}"
    meta = {"name": name, "bucket": bucket, "nuid": "x", "size": 0, "chunks": 0, "digest": "SHA-256="}
    try:
        meta |= json.loads((await writer.js.get_last_msg(f"OBJ_{bucket}", subject)).data or b"{}")
    except Exception:
        assert changes, "a new one says what it is"
    body = changes.pop("raw", None) or json.dumps(meta | changes).encode()
    await writer.js.publish(subject, body, headers={"Nats-Rollup": "sub"})


async def body_of(source: NatsServer, object: NatsObject) -> bytes:
    return b"".join(await all_of(read_object(source, object)))


async def take_all(reading: AsyncGenerator[bytes, None], taken: list[bytes]) -> None:
    async for chunk in reading:
        taken.append(chunk)  # noqa: PERF401


async def chunk_sequences(writer: Writer, bucket: str, nuid: str) -> list[int]:
    state = await writer.api(f"STREAM.INFO.OBJ_{bucket}")
    found = []
    for sequence in range(1, state["state"]["last_seq"] + 1):
        reply = await writer.client.request(f"$JS.API.STREAM.MSG.GET.OBJ_{bucket}", b'{"seq":%d}' % sequence)
        if json.loads(reply.data).get("message", {}).get("subject") == f"$O.{bucket}.C.{nuid}":
            found.append(sequence)
    return found


async def test_an_object_is_listed_and_read_as_it_was_put(source: NatsServer, writer: Writer) -> None:
    bucket, store = await bucket_of(writer, description="for tests", max_bytes=1 << 24, ttl=3600)
    await put(store, "dir/ä b*>.bin", BODY, description="five chunks", headers={"a": ["1", "2"]})
    await put(store, "empty", b"")
    (found,) = [b for b in await object_buckets(source) if b.name == bucket]
    assert (found.description, found.sealed, found.compressed, found.ttl_s, found.max_bytes) == (
        "for tests", False, False, 3600.0, 1 << 24,
    )  # fmt: skip
    assert found.metadata == {}
    first, empty = await list_objects(source, found)
    assert (first.name, first.size, first.chunks, first.max_chunk) == ("dir/ä b*>.bin", len(BODY), 6, CHUNK)
    assert first.digest == f"SHA-256={base64.urlsafe_b64encode(hashlib.sha256(BODY).digest()).decode()}"
    assert (first.description, first.headers, first.deleted, first.link) == (
        "five chunks", {"a": ("1", "2")}, False, None,
    )  # fmt: skip
    assert first.mtime > 1_700_000_000_000_000_000
    assert await body_of(source, first) == BODY
    assert await body_of(source, empty) == b""
    assert await find_object(source, bucket, "dir/ä b*>.bin") == first


async def test_a_replaced_object_is_listed_once_and_a_deleted_one_as_deleted(
    source: NatsServer, writer: Writer
) -> None:
    bucket, store = await bucket_of(writer)
    await put(store, "twice", b"old")
    await put(store, "gone", BODY)
    await put(store, "twice", b"new")
    await store.delete("gone")
    (found,) = [b for b in await object_buckets(source) if b.name == bucket]
    gone, twice = await list_objects(source, found)
    assert (gone.name, gone.deleted, twice.name, twice.deleted) == ("gone", True, "twice", False)
    assert await body_of(source, twice) == b"new"
    with pytest.raises(SourceNotFound, match=r"'gone'.*was deleted"):
        await body_of(source, gone)


async def test_an_object_with_a_missing_chunk_is_named_and_the_rest_goes_on(source: NatsServer, writer: Writer) -> None:
    bucket, store = await bucket_of(writer)
    await put(store, "broken", BODY)
    await put(store, "whole", BODY)
    broken = await find_object(source, bucket, "broken")
    await writer.js.delete_msg(f"OBJ_{bucket}", (await chunk_sequences(writer, bucket, broken.nuid))[2])
    with pytest.raises(SourceDamaged, match=rf"'broken'.*5 of 6 chunks are there, with {len(BODY) - CHUNK} of "):
        await body_of(source, broken)
    assert await body_of(source, await find_object(source, bucket, "whole")) == BODY


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": f"SHA-256={base64.urlsafe_b64encode(bytes(32)).decode()}"}, "its bytes have SHA-256"),
        ({"digest": "SHA-256=!"}, "is no SHA-256"),
        ({"digest": "MD5=abc"}, "is no SHA-256"),
        ({"digest": ""}, "is no SHA-256"),
        ({"size": len(BODY) - 1}, "6 of 6 chunks are there"),
        ({"size": len(BODY) + 1}, "6 of 6 chunks are there"),
        ({"chunks": 5}, "5 of 5 chunks are there"),
        ({"chunks": 7}, "6 of 7 chunks are there"),
        ({"nuid": "another"}, "0 of 6 chunks are there"),
        ({"nuid": "a.b"}, "names no chunks"),
        ({"name": "other"}, "is one of 'other'"),
        ({"size": -1}, "size: "),
        ({"chunks": "6"}, "chunks: "),
        ({"raw": b'{"name": "x'}, "cannot be read"),
        ({"raw": b"[" * 100_000}, "cannot be read"),
        ({"raw": b"\xff\xfe"}, "cannot be read"),
    ],
)
async def test_an_object_that_its_meta_message_does_not_fit_is_damaged_and_it_is_said_how(
    source: NatsServer, writer: Writer, changes: dict[str, Any], said: str
) -> None:
    bucket, store = await bucket_of(writer)
    await put(store, "x", BODY)
    await rewrite(writer, bucket, "x", **changes)
    (found,) = [b for b in await object_buckets(source) if b.name == bucket]
    (object,) = await list_objects(source, found)
    assert object.name == "x"
    with pytest.raises(SourceDamaged, match=said):
        await body_of(source, object)


async def test_a_link_is_followed_to_its_end_and_one_without_an_end_is_named(
    source: NatsServer, writer: Writer
) -> None:
    bucket, store = await bucket_of(writer)
    await put(store, "target", BODY)
    await put(store, "gone", b"1")
    await store.delete("gone")
    for name, to in (("a", "b"), ("b", "target"), ("c", "d"), ("d", "c"), ("lost", "nowhere"), ("late", "gone")):
        await rewrite(writer, bucket, name, options={"link": {"bucket": bucket, "name": to}})
    await rewrite(writer, bucket, "all", options={"link": {"bucket": bucket}})
    link = await find_object(source, bucket, "a")
    assert (link.link, link.problem) == ((bucket, "b"), "")
    with pytest.raises(SourceNotFound, match=r"is a link to .*/b, without bytes"):
        await body_of(source, link)
    assert await body_of(source, await resolve_link(source, link)) == BODY
    target = await find_object(source, bucket, "target")
    assert await resolve_link(source, target) is target
    for name, error, said in (
        ("c", SourceDamaged, "in a circle"), ("lost", SourceNotFound, "has no object 'nowhere'"),
        ("late", SourceNotFound, "which was deleted"), ("all", SourceNotFound, "to the whole bucket"),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            await resolve_link(source, await find_object(source, bucket, name))


@pytest.mark.parametrize("what", ["deleted", "replaced", "the bucket is deleted"])
async def test_an_object_that_goes_away_while_it_is_read_is_not_taken_for_a_damaged_one(
    source: NatsServer, writer: Writer, what: str
) -> None:
    bucket, store = await bucket_of(writer)
    body = os.urandom(40 * (128 << 10))
    await store.put("x", body)
    object = await find_object(source, bucket, "x")
    reading = read_object(source, object)
    taken = [await anext(reading)]
    if what == "deleted":
        await store.delete("x")
    elif what == "replaced":
        await store.put("x", b"another")
    else:
        await writer.js.delete_object_store(bucket)
    with pytest.raises(SourceChanged):
        await take_all(reading, taken)
    assert body.startswith(b"".join(taken))


async def test_a_sealed_and_compressed_bucket_is_read_like_any_other(source: NatsServer, writer: Writer) -> None:
    bucket = name_of("sealed")
    await writer.api(
        f"STREAM.CREATE.OBJ_{bucket}",
        {
            "name": f"OBJ_{bucket}", "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"], "storage": "file",
            "compression": "s2", "allow_rollup_hdrs": True, "discard": "new", "metadata": {"team": "models"},
        },
    )  # fmt: skip
    store = await writer.js.object_store(bucket)
    await put(store, "x", BODY * 20)
    await store.seal()  # type: ignore[no-untyped-call]
    (found,) = [b for b in await object_buckets(source) if b.name == bucket]
    assert (found.sealed, found.compressed, found.metadata) == (True, True, {"team": "models"})
    (object,) = await list_objects(source, found)
    assert await body_of(source, object) == BODY * 20


async def test_objects_are_read_side_by_side_and_one_that_is_given_up_leaves_nothing(
    source: NatsServer, writer: Writer
) -> None:
    bucket, store = await bucket_of(writer)
    bodies = {f"o{n}": os.urandom(3 * CHUNK + n) for n in range(20)}
    for name, body in bodies.items():
        await put(store, name, body)
    reading = read_object(source, await find_object(source, bucket, "o0"))
    await anext(reading)
    await reading.aclose()
    (found,) = [b for b in await object_buckets(source) if b.name == bucket]
    objects = await list_objects(source, found)
    read = await asyncio.gather(*(body_of(source, object) for object in objects))
    assert {object.name: body for object, body in zip(objects, read, strict=True)} == bodies
    assert source.client.waiting == 0
    assert (await stream_info(source, f"OBJ_{bucket}")).messages == found.info.messages


async def test_headers_as_nats_py_writes_them_are_one_value_each(source: NatsServer, writer: Writer) -> None:
    bucket, store = await bucket_of(writer)
    await put(store, "plain", BODY, headers={"a": "only one"})
    found = await find_object(source, bucket, "plain")
    assert (found.problem, found.headers) == ("", {"a": ("only one",)})
    assert await body_of(source, found) == BODY


async def test_a_meta_message_at_a_subject_that_is_no_name_is_named_by_that_subject(
    source: NatsServer, writer: Writer
) -> None:
    bucket, _ = await bucket_of(writer)
    await writer.js.publish(f"$O.{bucket}.M.!!!", b'{"name": "x", "nuid": "n"}')
    (found,) = [each for each in await object_buckets(source) if each.name == bucket]
    (odd,) = await list_objects(source, found)
    assert (odd.name, odd.problem) == ("!!!", "its meta message lies at a subject that is no name in base64")


async def test_a_bucket_that_is_not_there_is_named_as_such(source: NatsServer) -> None:
    with pytest.raises(SourceNotFound, match=r"there is no bucket 'nowhere' at .*, so no object 'x'"):
        await find_object(source, "nowhere", "x")
