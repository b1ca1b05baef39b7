"""Keys: each names one object, whatever it looks like; listings are in their order; what expired is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dynlog.errors import (
    ConfigurationError,
    ObjectExists,
    ObjectNotFound,
)
from dynlog.objects import ObjectStore
from dynlog.open import open_objects
from dynlog.timing import ManualClock
from tests.conformance.object_backend import (
    ObjectBackend,
    drain,
    keys,
    stream,
)

AWKWARD_KEYS = [
    "a", "A", "a/b", "a/b/c", "a.o", "a.d", "a.entry", ".hidden", "...", "..a", "a..", "%41", "%", "a%2fb", "\u00e4",
    "a\u0308", "\U0001f600", "with space", "x" * 1000, "/".join(["y"] * 500), "Z" * 255, "z" * 256,
    "\u00e9" * 250 + "/t", "a-b", "a:b", ".dynlog", ".dynlog/entries/a.o", ".DYNLOG/x", "con", "a~", "*?[]", "'\"$`",
    "x" * 200, "x" * 200 + "/y", "x" * 200 + "-",
]  # fmt: skip
ILLEGAL_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "./a",
    "a/.",
    "a\\b",
    "a\x00b",
    "a\n",
    "x" * 1001,
    "\ud800",
]


class KeysSuite(ObjectBackend):
    async def test_keys_of_every_awkward_kind_are_kept_apart(self, store: ObjectStore) -> None:
        for key in AWKWARD_KEYS:
            await store.put(key, key.encode())
        for key in AWKWARD_KEYS:
            assert await store.get_bytes(key) == key.encode()
        assert await keys(store) == sorted(AWKWARD_KEYS)
        for key in AWKWARD_KEYS[::2]:
            await store.delete(key)
        assert await keys(store) == sorted(AWKWARD_KEYS[1::2])
        for key in AWKWARD_KEYS[1::2]:
            assert await store.get_bytes(key) == key.encode()

    @pytest.mark.parametrize("order", [("a", "a/b"), ("a/b", "a")])
    async def test_a_key_and_one_below_it_live_side_by_side(self, store: ObjectStore, order: tuple[str, str]) -> None:
        for turn in ("first", "second"):
            for key in order:
                await store.put(key, f"{key} {turn}".encode())
        assert {key: await store.get_bytes(key) for key in order} == {key: f"{key} second".encode() for key in order}
        await store.delete(order[0])
        assert await store.get_bytes(order[1]) == f"{order[1]} second".encode()
        assert await keys(store) == [order[1]]

    @pytest.mark.parametrize("key", ILLEGAL_KEYS)
    async def test_an_illegal_key_is_refused_by_every_call(self, store: ObjectStore, key: str) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.put(key, b"x"),
            lambda: drain(store.get(key)),
            lambda: store.head(key),
            lambda: store.delete(key),
            lambda: store.start_upload(key),
            lambda: store.resume_upload(key, "0" * 32),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError):
                await call()
        assert await keys(store) == []

    async def test_a_missing_object_is_named(self, store: ObjectStore) -> None:
        await store.put("there", b"x")
        calls: list[Callable[[], Any]] = [
            lambda: store.head("gone/away"),
            lambda: drain(store.get("gone/away")),
            lambda: store.get_bytes("gone/away"),
        ]
        for call in calls:
            with pytest.raises(ObjectNotFound, match="gone/away") as caught:
                await call()
            assert (caught.value.key, caught.value.store) == ("gone/away", store.url)

    async def test_a_deleted_object_is_gone_and_deleting_it_again_is_harmless(self, store: ObjectStore) -> None:
        await store.put("a/b/c", b"x")
        await store.delete("a/b/c")
        await store.delete("a/b/c")
        await store.delete("never/there")
        with pytest.raises(ObjectNotFound):
            await store.head("a/b/c")
        assert await keys(store) == []
        await store.put("a/b/c", b"again")
        assert await store.get_bytes("a/b/c") == b"again"

    async def test_if_absent_refuses_to_replace_and_changes_nothing(self, store: ObjectStore) -> None:
        first = await store.put("k", b"first", if_absent=True)
        with pytest.raises(ObjectExists) as caught:
            await store.put("k", stream(b"second"), if_absent=True)
        assert caught.value.key == "k"
        assert await store.head("k") == first
        assert await store.get_bytes("k") == b"first"

    async def test_of_many_who_create_at_once_exactly_one_wins(self, store: ObjectStore, store_url: str) -> None:
        async with open_objects(store_url) as other:
            outcomes = await asyncio.gather(
                *((store, other)[n % 2].put("k", stream(f"{n}".encode()), if_absent=True) for n in range(12)),
                return_exceptions=True,
            )
        won = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        assert len(won) == 1
        assert all(isinstance(outcome, ObjectExists) for n, outcome in enumerate(outcomes) if n not in won)
        assert await store.get_bytes("k") == f"{won[0]}".encode()

    async def test_a_listing_is_in_the_order_of_the_keys_and_of_the_prefix_only(self, store: ObjectStore) -> None:
        names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a/c", "aa", "b", "B", "a0", "x" * 250 + "/1", "x" * 250, "x" * 201]
        for name in names:
            await store.put(name, name.encode())
        assert await keys(store) == sorted(names)
        for prefix in ("a", "a/", "a/b", "a/b/", "aa", "x" * 240, "x" * 250 + "/", "none", "a/b/c"):
            assert await keys(store, prefix) == sorted(name for name in names if name.startswith(prefix)), prefix

    async def test_a_long_listing_is_complete(self, store: ObjectStore) -> None:
        names = sorted(f"p/{n % 3}/{n}" for n in range(450))
        await asyncio.gather(*(store.put(name, b"") for name in names))
        assert await keys(store, "p/") == names

    async def test_a_listing_says_of_each_object_what_head_says(self, store: ObjectStore) -> None:
        await store.put("a", b"1", metadata={"m": "x"}, expires_after_s=1000)
        await store.put("b", b"22")
        assert [info async for info in store.list()] == [await store.head("a"), await store.head("b")]

    async def test_a_listing_survives_deletion_of_what_it_lists(self, store: ObjectStore) -> None:
        for n in range(30):
            await store.put(f"d/{n:02}", b"")
        seen = []
        async for info in store.list("d/"):
            seen.append(info.key)
            await store.delete(info.key)
        assert seen == [f"d/{n:02}" for n in range(30)]
        assert await keys(store) == []


class ExpirySuite(ObjectBackend):
    async def test_an_expired_object_is_not_found(self, timed: ObjectStore, clock: ManualClock) -> None:
        info = await timed.put("k", b"x", expires_after_s=10)
        assert info.expires_ms == clock.time_ms() + 10_000
        clock.advance(9.9)
        assert await timed.get_bytes("k") == b"x"
        clock.advance(0.2)
        with pytest.raises(ObjectNotFound):
            await timed.head("k")
        with pytest.raises(ObjectNotFound):
            await timed.get_bytes("k")
        assert await keys(timed) == []

    async def test_an_expired_object_may_be_created_anew(self, timed: ObjectStore, clock: ManualClock) -> None:
        await timed.put("k", b"old", expires_after_s=10)
        clock.advance(11)
        await timed.put("k", b"new", if_absent=True)
        assert await timed.get_bytes("k") == b"new"

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    async def test_an_illegal_expiry_is_refused(self, store: ObjectStore, seconds: float) -> None:
        with pytest.raises(ConfigurationError):
            await store.put("k", b"x", expires_after_s=seconds)
        assert await keys(store) == []

    async def test_gc_removes_expired_objects_and_nothing_else(self, timed: ObjectStore, clock: ManualClock) -> None:
        await timed.put("short", b"x" * 100, expires_after_s=10)
        await timed.put("long", b"y", expires_after_s=1000)
        await timed.put("ever", b"z")
        clock.advance(11)
        collected = await timed.gc()
        assert (collected.expired, collected.bytes) == (1, 100)
        clock.advance(-5)  # had it only been hidden, it would be there again
        assert await keys(timed) == ["ever", "long"]
        assert (await timed.gc()).expired == 0

    async def test_gc_of_a_sound_store_removes_nothing(self, store: ObjectStore) -> None:
        await store.put("a/b", b"x")
        await store.put("a", b"y")
        upload = await store.start_upload("c")
        await upload.put_part(1, b"part")
        collected = await store.gc()
        assert (collected.expired, collected.abandoned, collected.bytes) == (0, 0, 0)
        assert await keys(store) == ["a", "a/b"]
        assert await store.get_bytes("a") == b"y"
        await upload.complete()
