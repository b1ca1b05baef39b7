"""Objects larger than one request carries: put in parts, with their SHA-256 in a note that is there before they are."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping

import pytest

from dynlog.errors import ObjectCorrupt, ObjectExists, ObjectNotFound
from dynlog.objects import MAX_METADATA_BYTES, ObjectStore
from dynlog.open import open_objects
from dynlog.testing.minio import MinioServer
from dynlog.timing import ManualClock
from tests.conformance.object_backend import cancelled_after, keys, stream
from tests.s3.conftest import BUCKET

MIB = 1 << 20
PART = 5 * MIB


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[ObjectStore]:
    async with open_objects(store_url, clock=clock) as store:
        yield store


@pytest.fixture
async def behind(minio: MinioServer, prefix: str) -> AsyncIterator[ObjectStore]:
    """The whole bucket, where the store's own objects can be looked for."""
    async with open_objects(minio.url(BUCKET)) as store:
        yield store


async def own(minio: MinioServer, prefix: str) -> list[str]:
    """Names of the store's own, by plain minio-py."""
    from minio import Minio

    client = Minio(f"127.0.0.1:{minio.port}", minio.user, minio.password, secure=False)
    found = await asyncio.to_thread(lambda: list(client.list_objects(BUCKET, f"{prefix}/.dynlog/", recursive=True)))
    return [str(entry.object_name).removeprefix(f"{prefix}/.dynlog/") for entry in found]


@pytest.mark.parametrize("size", [PART, PART + 1, 2 * PART, 2 * PART + 1, 23 * MIB])
async def test_a_body_of_any_size_comes_back_with_all_that_was_said_of_it(store: ObjectStore, size: int) -> None:
    body = os.urandom(size)
    metadata = {"who": "jürgen, 日本", "dynlog-id": "mine", "empty": "", "spaces": "  a  b  ", "percent": "50%41"}
    info = await store.put("k.bin", stream(body), metadata=metadata, expires_after_s=1000)
    assert (info.size, info.sha256, dict(info.metadata)) == (size, hashlib.sha256(body).hexdigest(), metadata)
    assert await store.head("k.bin") == info
    assert [found async for found in store.list()] == [info]
    assert await store.get_bytes("k.bin") == body
    ranged = b"".join([piece async for piece in store.get("k.bin", start=PART - 3, length=3)])
    assert ranged == body[PART - 3 : PART]


@pytest.mark.parametrize("size", [10, PART + 1])
async def test_as_much_metadata_as_the_contract_allows_is_kept(store: ObjectStore, size: int) -> None:
    metadata: Mapping[str, str] = {"m": "日" * ((MAX_METADATA_BYTES - 1) // 3)}
    info = await store.put("k", b"x" * size, metadata=metadata)
    assert await store.head("k") == info
    assert dict(info.metadata) == metadata


async def test_a_large_object_that_must_be_new_is_created_once(store: ObjectStore, store_url: str) -> None:
    async with open_objects(store_url) as other:
        bodies = [bytes([number]) * (PART + 1) for number in range(4)]
        outcomes = await asyncio.gather(
            *((store, other)[n % 2].put("k", stream(body), if_absent=True) for n, body in enumerate(bodies)),
            return_exceptions=True,
        )
    won = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    assert all(isinstance(outcome, ObjectExists) for n, outcome in enumerate(outcomes) if n not in won)
    assert await store.get_bytes("k") == bodies[won[0]]


async def test_an_expired_large_object_may_be_created_anew_and_is_collected(
    store: ObjectStore, clock: ManualClock
) -> None:
    await store.put("k", b"a" * (PART + 1), expires_after_s=10)
    clock.advance(11)
    with pytest.raises(ObjectNotFound):
        await store.get_bytes("k")
    await store.put("k", b"b" * (PART + 1), expires_after_s=10, if_absent=True)
    clock.advance(11)
    collected = await store.gc()
    assert (collected.expired, collected.bytes) == (1, PART + 1)
    clock.advance(-15)
    assert await keys(store) == []


async def test_notes_of_objects_that_are_gone_are_collected_once_they_are_old_and_no_others(
    store: ObjectStore, clock: ManualClock, minio: MinioServer, prefix: str
) -> None:
    for turn in range(3):
        await store.put("k", bytes([turn]) * (PART + 1))
    await store.put("deleted", b"x" * (PART + 1))
    await store.delete("deleted")
    assert len(await own(minio, prefix)) == 4
    assert (await store.gc(older_than_s=3600)).abandoned == 0
    clock.advance(7200)
    assert (await store.gc(older_than_s=3600)).abandoned == 3
    assert len(await own(minio, prefix)) == 1
    assert await store.get_bytes("k") == bytes([2]) * (PART + 1)


async def test_a_put_that_fails_or_is_cancelled_on_the_way_leaves_nothing_in_the_bucket(
    store: ObjectStore, minio: MinioServer, prefix: str
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * (2 * PART + 1)
        raise RuntimeError("source")

    with pytest.raises(RuntimeError, match="source"):
        await store.put("k", failing())
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (2 * PART + 1)
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put("k", endless()))
    await begun.wait()
    putting.cancel()
    await asyncio.wait([putting])
    assert await own(minio, prefix) == []
    assert await keys(store) == []


async def test_a_large_put_cancelled_at_any_moment_leaves_the_old_or_the_new_body(store: ObjectStore) -> None:
    old = b"old"
    for turns in range(0, 120, 8):
        await store.put("k", old)
        new = os.urandom(PART + 10)
        await cancelled_after(turns, store.put("k", stream(new)))
        assert await store.get_bytes("k") in (old, new)


async def test_an_object_whose_note_is_gone_is_corrupt_and_never_taken_for_good(
    store: ObjectStore, minio: MinioServer, prefix: str
) -> None:
    from minio import Minio

    await store.put("k", b"x" * (PART + 1))
    (note,) = await own(minio, prefix)
    client = Minio(f"127.0.0.1:{minio.port}", minio.user, minio.password, secure=False)
    await asyncio.to_thread(client.remove_object, BUCKET, f"{prefix}/.dynlog/{note}")
    with pytest.raises(ObjectCorrupt, match="note"):
        await store.get_bytes("k")
    await store.put("k", b"again")
    assert await store.get_bytes("k") == b"again"


async def test_readers_among_large_puts_see_whole_bodies_only(store: ObjectStore, store_url: str) -> None:
    bodies = [bytes([number]) * (PART + number) for number in range(1, 7)]
    await store.put("k", bodies[0])
    async with open_objects(store_url) as other, asyncio.TaskGroup() as group:

        async def write() -> None:
            for body in bodies:
                await other.put("k", body)
                await other.gc(older_than_s=0)

        writing = group.create_task(write())
        seen = 0
        while not writing.done():
            assert await store.get_bytes("k") in bodies
            seen += 1
    assert seen > 0


async def test_the_prefix_of_one_store_is_a_folder_of_keys_in_another(
    store: ObjectStore, behind: ObjectStore, prefix: str
) -> None:
    await store.put("a/b.bin", b"x" * (PART + 1))
    assert await keys(behind, f"{prefix}/") == [f"{prefix}/a/b.bin"]
    assert await behind.get_bytes(f"{prefix}/a/b.bin") == b"x" * (PART + 1)
