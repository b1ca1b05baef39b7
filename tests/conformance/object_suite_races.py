"""Failing, racing, closing: an object is there completely or not at all, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dynlog.errors import (
    Closed,
    DeadlineExceeded,
    ObjectNotFound,
)
from dynlog.objects import PIECE_BYTES, ObjectStore
from dynlog.open import open_objects
from tests.conformance.object_backend import (
    PATIENCE_S,
    ObjectBackend,
    cancelled_after,
    drain,
    keys,
    stream,
)
from tests.conformance.possessions import possessions

MIB = 1 << 20


class RacesSuite(ObjectBackend):
    async def test_a_put_whose_source_fails_leaves_what_was_there(self, store: ObjectStore) -> None:
        async def failing() -> AsyncIterator[bytes]:
            yield os.urandom(2 * PIECE_BYTES)
            raise RuntimeError("source")

        with pytest.raises(RuntimeError, match="source"):
            await store.put("new", failing())
        await store.put("old", b"old")
        with pytest.raises(RuntimeError, match="source"):
            await store.put("old", failing())
        assert await keys(store) == ["old"]
        assert await store.get_bytes("old") == b"old"

    async def test_a_put_whose_source_stalls_ends_at_its_deadline(self, store: ObjectStore) -> None:
        async def stalling() -> AsyncIterator[bytes]:
            yield b"some"
            await asyncio.Event().wait()

        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(DeadlineExceeded, match="'k'"):
                await store.put("k", stalling(), timeout=0.1)
        assert await keys(store) == []

    async def test_puts_of_one_key_at_once_leave_one_of_them_whole(self, store: ObjectStore, store_url: str) -> None:
        bodies = [bytes([n]) * (PIECE_BYTES + n) for n in range(8)]
        async with open_objects(store_url) as other:
            await asyncio.gather(
                *((store, other)[n % 2].put("k", stream(body), metadata={"n": f"{n}"}) for n, body in enumerate(bodies))
            )
        found = await store.get_bytes("k")
        assert found in bodies
        info = await store.head("k")
        assert (info.size, info.metadata["n"]) == (len(found), f"{bodies.index(found)}")

    async def test_a_reader_among_puts_and_deletes_sees_whole_bodies_only(
        self, store: ObjectStore, store_url: str
    ) -> None:
        bodies = [bytes([n]) * (2 * PIECE_BYTES + n) for n in range(10)]
        seen = 0
        async with open_objects(store_url) as other, asyncio.TaskGroup() as group:

            async def write() -> None:
                for turn in range(30):
                    await other.put("k", bodies[turn % 10])
                    if turn % 3 == 0:
                        await other.delete("k")

            writing = group.create_task(write())
            while not writing.done():
                try:
                    assert await store.get_bytes("k") in bodies
                    seen += 1
                except ObjectNotFound:
                    await asyncio.sleep(0)
        assert seen > 0

    @pytest.mark.parametrize("change", ["put", "delete"])
    async def test_a_read_that_has_begun_goes_on_with_its_body(self, store: ObjectStore, change: str) -> None:
        body = os.urandom(3 * PIECE_BYTES)
        await store.put("k", body)
        reading = store.get("k")
        found = await anext(reading)
        if change == "put":
            await store.put("k", b"another")
        else:
            await store.delete("k")
        assert found + b"".join([piece async for piece in reading]) == body

    async def test_what_one_handle_put_another_sees_at_once(self, store: ObjectStore, store_url: str) -> None:
        async with open_objects(store_url) as other:
            for n in range(5):
                await store.put("k", f"{n}".encode())
                assert await other.get_bytes("k") == f"{n}".encode()
            await other.delete("k")
            with pytest.raises(ObjectNotFound):
                await store.head("k")

    async def test_every_call_after_closing_raises_closed(self, store: ObjectStore) -> None:
        await store.put("k", b"x")
        upload = await store.start_upload("u")
        reading = store.get("k")
        await store.close()
        await store.close()
        calls: list[Callable[[], Any]] = [
            lambda: store.put("k", b"x"),
            lambda: store.head("k"),
            lambda: drain(store.get("k")),
            lambda: drain(reading),
            lambda: drain(store.list()),
            lambda: store.delete("k"),
            store.gc,
            lambda: store.start_upload("v"),
            lambda: store.resume_upload("u", upload.upload_id),
            upload.parts,
            lambda: upload.put_part(1, b"x"),
            upload.complete,
            upload.abort,
        ]
        for call in calls:
            with pytest.raises(Closed):
                await call()

    async def test_closing_ends_puts_and_reads_under_way(self, store_url: str) -> None:
        async def endless() -> AsyncIterator[bytes]:
            yield b"some"
            began.set()
            await asyncio.Event().wait()

        began = asyncio.Event()
        async with open_objects(store_url) as keeper, open_objects(store_url) as store:
            await store.put("k", os.urandom(2 * PIECE_BYTES))
            reading = store.get("k")
            await anext(reading)
            putting = asyncio.create_task(store.put("new", endless()))
            await began.wait()
            async with asyncio.timeout(PATIENCE_S):
                await store.close()
                with pytest.raises(Closed):
                    await putting
                with pytest.raises(Closed):
                    await drain(reading)
            assert await keys(keeper) == ["k"]

    async def test_a_closed_store_leaves_no_task_thread_or_file_behind(self, store_url: str) -> None:
        unfinished: list[AsyncIterator[bytes]] = []  # never read to their ends, and held over the closing

        async def use() -> None:
            async with open_objects(store_url) as store:
                await asyncio.gather(*(store.put(f"k{n}", os.urandom(1000)) for n in range(10)))
                await asyncio.gather(*(store.get_bytes(f"k{n}") for n in range(10)))
                await store.put("big", os.urandom(3 * PIECE_BYTES))
                unfinished.append(store.get("big"))
                await anext(unfinished[-1])
                await keys(store)
                await store.gc()
                upload = await store.start_upload("u")
                await upload.put_part(1, b"x")
                await upload.abort()

        await use()
        before = possessions()
        for _ in range(3):
            await use()
        assert all(now <= then for now, then in zip(possessions(), before, strict=True)), (possessions(), before)
        for reading in unfinished:
            with pytest.raises(Closed):
                await anext(reading)

    async def test_a_put_cancelled_at_any_moment_leaves_the_old_or_the_new_body(self, store: ObjectStore) -> None:
        old = b"old"
        for turns in range(60):
            await store.put("k", old)
            new = os.urandom(PIECE_BYTES + 10)
            await cancelled_after(turns, store.put("k", stream(new[:5], new[5:])))
            assert await store.get_bytes("k") in (old, new)
        assert await keys(store) == ["k"]


class BoundedMemorySuite(ObjectBackend):
    """For stores that do not keep bodies in this process."""

    async def test_memory_stays_bounded_for_a_large_object(self, store: ObjectStore) -> None:
        piece = os.urandom(MIB)

        async def large() -> AsyncIterator[bytes]:
            for _ in range(128):
                yield piece

        tracemalloc.start()
        try:
            await store.put("k", large())
            size = 0
            async for found in store.get("k"):
                size += len(found)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size == 128 * MIB
        assert peak < 40 * MIB, f"{peak / MIB:.1f} MiB"
