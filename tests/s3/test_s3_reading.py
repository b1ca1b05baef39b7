"""Gets that read and hash ahead: in order, within bounds, verified to the last byte, and ended by whoever closes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os

import pytest
import xxhash
from minio import Minio

from dynlog.errors import Closed, ObjectCorrupt
from dynlog.objects import PIECE_BYTES
from dynlog.open import open_objects
from dynlog.storage.s3.digest import BodyDigest
from dynlog.storage.s3.looking import look
from dynlog.storage.s3.reading import AHEAD, READ_TOGETHER, OpenBody
from dynlog.testing.minio import MinioServer
from tests.conformance.object_backend import PATIENCE_S, drain
from tests.conformance.possessions import possessions
from tests.s3.conftest import BUCKET
from tests.s3.test_s3_faults import collect, settled

MIB = 1 << 20


async def test_no_more_is_read_ahead_of_a_slow_caller_than_there_is_room_for(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    chunk = OpenBody._chunk

    def counted(self: OpenBody, most: int) -> list[bytes]:
        nonlocal read
        pieces = chunk(self, most)
        read += sum(map(len, pieces))
        return pieces

    monkeypatch.setattr(OpenBody, "_chunk", counted)
    body = os.urandom(24 * MIB)
    async with open_objects(store_url) as store:
        await store.put("k.bin", body)
        furthest = taken = 0
        async for piece in store.get("k.bin"):
            for _ in range(3):
                await asyncio.to_thread(hashlib.sha256, piece)
            furthest = max(furthest, read - taken)
            taken += len(piece)
    assert taken == read == len(body)
    assert READ_TOGETHER * PIECE_BYTES < furthest <= (AHEAD + 1) * READ_TOGETHER * PIECE_BYTES


async def put_by(minio: MinioServer, name: str, body: bytes, said: dict[str, str]) -> None:
    """Puts an object as some dynlog did: older ones wrote no XXH3."""
    client = Minio(f"127.0.0.1:{minio.port}", minio.user, minio.password, secure=False)
    await asyncio.to_thread(client.put_object, BUCKET, name, io.BytesIO(body), len(body), metadata=dict(said))


def said_of(body: bytes, *, older: bool) -> dict[str, str]:
    digest = BodyDigest()
    digest.update(body)
    said = {"dynlog-sha256": digest.sha256, "dynlog-modified": "1"}
    return said if older else said | {"dynlog-xxh3": digest.xxh3}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("at", [0, 7 * MIB, 12 * MIB - 1])
async def test_one_wrong_byte_anywhere_keeps_the_last_piece_from_the_caller(
    minio: MinioServer, prefix: str, store_url: str, at: int, older: bool
) -> None:
    body = bytearray(12 * MIB)
    said = said_of(bytes(body), older=older)
    body[at] ^= 1
    await put_by(minio, f"{prefix}/k.bin", bytes(body), said)
    taken: list[bytes] = []
    async with open_objects(store_url) as store:
        with pytest.raises(ObjectCorrupt, match="SHA-256" if older else "XXH3-128"):
            await collect(store.get("k.bin"), taken)
    assert sum(map(len, taken)) < len(body)


@pytest.mark.parametrize("size", [0, 1, 12 * MIB])
async def test_an_object_that_an_older_dynlog_put_reads_as_it_was_put(
    minio: MinioServer, prefix: str, store_url: str, size: int
) -> None:
    body = os.urandom(size)
    await put_by(minio, f"{prefix}/k.bin", body, said_of(body, older=True))
    async with open_objects(store_url) as store:
        taken: list[bytes] = []
        await collect(store.get("k.bin"), taken)
    assert b"".join(taken) == body


@pytest.mark.parametrize("size", [1, 20 * MIB])
async def test_a_body_is_put_with_both_digests(store_url: str, size: int) -> None:
    body = os.urandom(size)
    digest = BodyDigest()
    digest.update(body[: size // 2])
    before = digest.copy()
    digest.update(body[size // 2 :])
    assert (digest.sha256, digest.xxh3) == (hashlib.sha256(body).hexdigest(), xxhash.xxh3_128_hexdigest(body))
    assert before.sha256 == hashlib.sha256(body[: size // 2]).hexdigest()
    async with open_objects(store_url) as store:
        info = await store.put("k.bin", body)
        assert info.sha256 == digest.sha256
        found = await look(store._work, store._work.names.of("k.bin"), "k.bin", PATIENCE_S)  # type: ignore[attr-defined]
        assert found.xxh3 == digest.xxh3


async def test_closing_ends_a_read_that_waits_for_a_server_which_says_nothing(own_minio: MinioServer) -> None:
    before = possessions()
    async with open_objects(own_minio.url(BUCKET)) as store:
        await store.put("k.bin", bytes(48 * MIB))
        reading = store.get("k.bin", timeout=600)
        await anext(reading)
        own_minio.pause()
        rest = asyncio.create_task(drain(reading))
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await store.close()
            with pytest.raises(Closed):
                await rest
    own_minio.resume()
    await settled(before)
