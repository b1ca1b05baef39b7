"""Uploads in parts: acknowledged parts stay, the object appears whole with `complete`, and nothing before."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectNotFound
from dynlog.objects import PIECE_BYTES, ObjectStore
from dynlog.open import open_objects
from dynlog.timing import ManualClock
from dynlog.uploads import MAX_PARTS, Part
from tests.conformance.object_backend import ObjectBackend, cancelled_after, keys, stream


class UploadsSuite(ObjectBackend):
    def body(self, store_minimum: int, count: int) -> list[bytes]:
        """Parts that the store takes."""
        return [os.urandom(max(store_minimum, 1000) + n) for n in range(count)]

    async def test_parts_become_the_object_in_the_order_of_their_numbers(self, store: ObjectStore) -> None:
        upload = await store.start_upload("a/k", metadata={"m": "x"}, expires_after_s=1000)
        parts = self.body(upload.min_part_bytes, 4)
        assert upload.key == "a/k"
        for number in (3, 1, 4, 2):
            part = await upload.put_part(number, parts[number - 1])
            assert part == Part(number, len(parts[number - 1]), hashlib.sha256(parts[number - 1]).hexdigest())
        assert await keys(store) == []
        info = await upload.complete(sha256=hashlib.sha256(b"".join(parts)).hexdigest())
        assert await store.get_bytes("a/k") == b"".join(parts)
        assert await store.head("a/k") == info
        assert dict(info.metadata) == {"m": "x"}
        assert info.expires_ms == info.modified_ms + 1_000_000

    async def test_an_upload_is_resumed_with_the_parts_that_are_there(self, store: ObjectStore, store_url: str) -> None:
        upload = await store.start_upload("k")
        parts = self.body(upload.min_part_bytes, 3)
        for number in (1, 3):
            await upload.put_part(number, stream(parts[number - 1]))
        async with open_objects(store_url) as other:
            resumed = await other.resume_upload("k", upload.upload_id)
            there = await resumed.parts()
            assert there == [Part(n, len(parts[n - 1]), hashlib.sha256(parts[n - 1]).hexdigest()) for n in (1, 3)]
            await resumed.put_part(2, parts[1])
            await resumed.complete()
        assert await store.get_bytes("k") == b"".join(parts)

    async def test_a_part_put_twice_counts_once_the_last_one(self, store: ObjectStore) -> None:
        upload = await store.start_upload("k")
        first, second = self.body(upload.min_part_bytes, 2)
        await upload.put_part(1, first)
        await upload.put_part(1, second)
        assert len(await upload.parts()) == 1
        await upload.complete()
        assert await store.get_bytes("k") == second

    async def test_many_parts_may_be_put_at_once(self, store: ObjectStore) -> None:
        upload = await store.start_upload("k")
        parts = self.body(upload.min_part_bytes, 12)
        await asyncio.gather(*(upload.put_part(n + 1, part) for n, part in enumerate(parts)))
        await upload.complete()
        assert await store.get_bytes("k") == b"".join(parts)

    async def test_a_completed_upload_replaces_what_was_there_only_then(self, store: ObjectStore) -> None:
        await store.put("k", b"old")
        upload = await store.start_upload("k")
        await upload.put_part(1, b"new")
        assert await store.get_bytes("k") == b"old"
        await upload.complete()
        assert await store.get_bytes("k") == b"new"

    async def test_missing_parts_are_named_and_the_upload_goes_on(self, store: ObjectStore) -> None:
        upload = await store.start_upload("k")
        with pytest.raises(ConfigurationError):
            await upload.complete()
        parts = self.body(upload.min_part_bytes, 3)
        await upload.put_part(1, parts[0])
        await upload.put_part(3, parts[2])
        with pytest.raises(ConfigurationError, match="2"):
            await upload.complete()
        assert await keys(store) == []
        await upload.put_part(2, parts[1])
        await upload.complete()
        assert await store.get_bytes("k") == b"".join(parts)

    async def test_a_whole_that_does_not_verify_is_not_stored_and_the_upload_goes_on(self, store: ObjectStore) -> None:
        upload = await store.start_upload("k")
        await upload.put_part(1, b"body")
        with pytest.raises(ObjectCorrupt):
            await upload.complete(sha256="0" * 64)
        assert await keys(store) == []
        await upload.complete(sha256=hashlib.sha256(b"body").hexdigest())
        assert await store.get_bytes("k") == b"body"

    @pytest.mark.parametrize("number", [0, -1, MAX_PARTS + 1])
    async def test_a_part_number_out_of_range_is_refused(self, store: ObjectStore, number: int) -> None:
        upload = await store.start_upload("k")
        with pytest.raises(ConfigurationError):
            await upload.put_part(number, b"x")

    async def test_an_aborted_or_completed_upload_is_not_found(self, store: ObjectStore) -> None:
        aborted = await store.start_upload("k")
        await aborted.put_part(1, b"x")
        await aborted.abort()
        await aborted.abort()
        completed = await store.start_upload("k")
        await completed.put_part(1, b"y")
        await completed.complete()
        await completed.abort()
        for upload in (aborted, completed):
            with pytest.raises(ObjectNotFound):
                await upload.parts()
            with pytest.raises(ObjectNotFound):
                await upload.put_part(1, b"z")
            with pytest.raises(ObjectNotFound):
                await upload.complete()
            with pytest.raises(ObjectNotFound):
                await store.resume_upload("k", upload.upload_id)
        assert await store.get_bytes("k") == b"y"

    @pytest.mark.parametrize("upload_id", ["", "0" * 32, "../x", "..", "a/b", "x" * 500, "\x00"])
    async def test_an_unknown_upload_is_not_found(self, store: ObjectStore, upload_id: str) -> None:
        with pytest.raises(ObjectNotFound):
            await store.resume_upload("k", upload_id)

    async def test_an_upload_belongs_to_its_key(self, store: ObjectStore) -> None:
        upload = await store.start_upload("k")
        with pytest.raises(ObjectNotFound):
            await store.resume_upload("other", upload.upload_id)

    async def test_a_forgotten_upload_is_collected_and_a_running_one_is_not(
        self, timed: ObjectStore, clock: ManualClock
    ) -> None:
        forgotten = await timed.start_upload("f")
        await forgotten.put_part(1, b"x" * 100)
        assert (await timed.gc(older_than_s=3600)).abandoned == 0
        await self.pass_time(clock, 7200)
        running = await timed.start_upload("r")
        await running.put_part(1, b"y")
        collected = await timed.gc(older_than_s=3600)
        assert collected.abandoned == 1
        assert collected.bytes >= 100
        with pytest.raises(ObjectNotFound):
            await forgotten.parts()
        assert len(await running.parts()) == 1

    async def pass_time(self, clock: ManualClock, seconds: float) -> None:
        """Stores whose leftovers have another clock's time turn that, too."""
        clock.advance(seconds)

    async def test_a_part_cancelled_at_any_moment_is_the_old_or_the_new_one(self, store: ObjectStore) -> None:
        upload = await store.start_upload("k")
        await upload.put_part(1, b"old")
        for turns in range(0, 40, 2):
            await cancelled_after(turns, upload.put_part(1, stream(os.urandom(PIECE_BYTES), b"new")))
            (part,) = await upload.parts()
            assert part.size in (3, PIECE_BYTES + 3)
        await upload.complete()
        assert (await store.head("k")).size in (3, PIECE_BYTES + 3)
