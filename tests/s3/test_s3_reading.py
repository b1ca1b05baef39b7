"""Gets that read and hash ahead: in order, within bounds, verified to the last byte, and ended by whoever closes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import Callable

import pytest
from minio import Minio

from dynlog.errors import Closed, ObjectCorrupt
from dynlog.objects import PIECE_BYTES
from dynlog.open import open_objects
from dynlog.storage.s3.digest import MOST_WAITING, Digest
from dynlog.storage.s3.reading import AHEAD, READ_TOGETHER, OpenBody
from dynlog.testing.minio import MinioServer
from tests.conformance.object_backend import PATIENCE_S, drain, possessions
from tests.s3.conftest import BUCKET
from tests.s3.test_s3_faults import collect, settled

MIB = 1 << 20


class Helpers:
    """Stands for the store's threads: gives each function to ``begin``."""

    def __init__(self, begin: Callable[[Callable[[], object]], object]) -> None:
        self._begin = begin

    def compute_soon(self, function: Callable[[], object]) -> None:
        self._begin(function)


def test_a_digest_whose_helpers_never_come_holds_few_pieces_and_is_right() -> None:
    digest = Digest(Helpers(lambda function: None))  # type: ignore[arg-type]
    pieces = [os.urandom(100) for _ in range(5 * MOST_WAITING)]
    for piece in pieces:
        digest.take(piece)
        assert len(digest._waiting) <= MOST_WAITING
    digest.finish()
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_a_digest_is_right_however_its_helpers_and_the_reader_take_turns() -> None:
    threads: list[threading.Thread] = []

    def begin(function: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=function))
        threads[-1].start()

    for _ in range(10):
        digest = Digest(Helpers(begin))  # type: ignore[arg-type]
        pieces = [os.urandom(5000) for _ in range(300)]
        for piece in pieces:
            digest.take(piece)
        digest.finish()
        assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


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


@pytest.mark.parametrize("at", [0, 7 * MIB, 12 * MIB - 1])
async def test_one_wrong_byte_anywhere_keeps_the_last_piece_from_the_caller(
    minio: MinioServer, prefix: str, store_url: str, at: int
) -> None:
    body = bytearray(12 * MIB)
    said = {"dynlog-sha256": hashlib.sha256(body).hexdigest(), "dynlog-modified": "1"}
    body[at] ^= 1
    client = Minio(f"127.0.0.1:{minio.port}", minio.user, minio.password, secure=False)
    await asyncio.to_thread(
        client.put_object, BUCKET, f"{prefix}/k.bin", io.BytesIO(body), len(body), metadata=dict(said)
    )
    taken: list[bytes] = []
    async with open_objects(store_url) as store:
        with pytest.raises(ObjectCorrupt, match="SHA-256"):
            await collect(store.get("k.bin"), taken)
    assert sum(map(len, taken)) < len(body)


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
