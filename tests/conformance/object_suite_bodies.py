"""Bodies: what is read is what was put, whole or a range of it, with all that was said of it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from pydantic import BaseModel

from dynlog.errors import (
    ConfigurationError,
    ObjectCorrupt,
)
from dynlog.objects import PIECE_BYTES, ObjectStore
from dynlog.open import open_objects
from dynlog.timing import ManualClock
from tests.conformance.object_backend import (
    ObjectBackend,
    drain,
    keys,
    stream,
)


class Settings(BaseModel):
    name: str
    size: int


class BodiesSuite(ObjectBackend):
    @pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
    async def test_what_is_read_is_what_was_put(self, store: ObjectStore, size: int) -> None:
        body = os.urandom(size)
        info = await store.put("k", body)
        assert (info.key, info.size, info.sha256) == ("k", size, hashlib.sha256(body).hexdigest())
        assert await store.get_bytes("k") == body
        assert await store.head("k") == info

    async def test_a_body_may_be_streamed_in_pieces_of_any_size(self, store: ObjectStore) -> None:
        pieces = [b"", b"a", os.urandom(PIECE_BYTES * 2 + 7), b"", b"b" * 10, os.urandom(PIECE_BYTES - 1), b"c"]
        info = await store.put("k", stream(*pieces))
        assert await store.get_bytes("k") == b"".join(pieces)
        assert info.size == sum(map(len, pieces))

    async def test_no_piece_that_is_read_is_larger_than_the_piece_size(self, store: ObjectStore) -> None:
        await store.put("k", os.urandom(PIECE_BYTES * 2 + 1))
        assert max([len(piece) async for piece in store.get("k")]) <= PIECE_BYTES

    async def test_a_buffer_may_be_reused_as_soon_as_put_returned(self, store: ObjectStore) -> None:
        buffer = bytearray(b"before")
        await store.put("k", stream(memoryview(buffer)))  # type: ignore[arg-type]
        buffer[:] = b"after!"
        assert await store.get_bytes("k") == b"before"

    async def test_a_put_replaces_what_was_there_with_all_that_was_said_of_it(self, timed: ObjectStore) -> None:
        await timed.put("k", b"a long first body", metadata={"v": "1", "old": "x"}, expires_after_s=5)
        info = await timed.put("k", b"second", metadata={"v": "2"})
        assert await timed.get_bytes("k") == b"second"
        assert (dict(info.metadata), info.expires_ms) == ({"v": "2"}, None)
        assert [found async for found in timed.list()] == [info]

    async def test_metadata_and_time_are_kept(self, timed: ObjectStore, clock: ManualClock, store_url: str) -> None:
        metadata = {"content-type": "text/plain", "who": "jürgen, 日本", "empty": ""}
        info = await timed.put("k", b"x", metadata=metadata)
        assert dict(info.metadata) == metadata
        assert info.modified_ms == clock.time_ms()
        async with open_objects(store_url, clock=clock) as other:
            assert await other.head("k") == info

    @pytest.mark.parametrize(
        "metadata", [{"Upper": "x"}, {"": "x"}, {"a_b": "x"}, {"a": "new\nline"}, {"a": "x" * 2049}, {"a": 1}]
    )
    async def test_illegal_metadata_is_refused_and_nothing_stored(self, store: ObjectStore, metadata: Any) -> None:
        with pytest.raises(ConfigurationError):
            await store.put("k", b"x", metadata=metadata)
        assert await keys(store) == []

    async def test_what_is_no_body_is_refused_and_leaves_nothing(self, store: ObjectStore) -> None:
        bodies: list[Any] = ["text", 7, None, stream(b"good", "text")]  # type: ignore[arg-type]
        for body in bodies:
            with pytest.raises(ConfigurationError):
                await store.put("k", body)
        assert await keys(store) == []

    async def test_models_are_put_and_got_typed(self, store: ObjectStore) -> None:
        await store.put_model("k", Settings(name="n", size=3))
        assert await store.get_model("k", Settings) == Settings(name="n", size=3)
        await store.put("k", b'{"name": 1}')
        with pytest.raises(ObjectCorrupt):
            await store.get_model("k", Settings)

    async def test_progress_of_a_put_counts_up_to_the_size(self, store: ObjectStore) -> None:
        body, told = os.urandom(3 * PIECE_BYTES + 5), list[tuple[int, int | None]]()
        await store.put("k", body, progress=lambda done, total: told.append((done, total)))
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        assert told[-1] == (len(body), len(body))
        streamed: list[tuple[int, int | None]] = []
        await store.put("k", stream(body), progress=lambda done, total: streamed.append((done, total)))
        assert streamed[-1] == (len(body), None)

    async def test_progress_of_a_get_counts_up_to_the_length(self, store: ObjectStore) -> None:
        await store.put("k", os.urandom(3 * PIECE_BYTES + 5))
        told: list[tuple[int, int | None]] = []
        async for _ in store.get("k", start=10, length=2 * PIECE_BYTES, progress=lambda *seen: told.append(seen)):
            pass
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        assert told[-1] == (2 * PIECE_BYTES, 2 * PIECE_BYTES)

    async def test_ranges_are_exact(self, store: ObjectStore) -> None:
        body = os.urandom(2 * PIECE_BYTES + 100)
        await store.put("k", body)
        size = len(body)
        ranges: list[tuple[int, int | None]] = [
            (0, 0), (0, 1), (5, 10), (PIECE_BYTES - 1, 2), (0, size), (0, None), (7, None), (size, None), (size, 0),
            (size - 1, 1), (1, size - 1),
        ]  # fmt: skip
        for start, length in ranges:
            found = b"".join([piece async for piece in store.get("k", start=start, length=length)])
            assert found == body[start : size if length is None else start + length], (start, length)

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 5), (5, None), (4, 1), (2, -1), (1, 4)])
    async def test_a_range_outside_the_object_is_refused(
        self, store: ObjectStore, start: int, length: int | None
    ) -> None:
        await store.put("k", b"four")
        with pytest.raises(ConfigurationError):
            await drain(store.get("k", start=start, length=length))
