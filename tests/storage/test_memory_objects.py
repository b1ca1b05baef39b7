"""The memory store keeps the contract; and what only a store in memory has: names shared within the process."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynlog.errors import ConfigurationError, ObjectNotFound, ObjectStoreUnavailable
from dynlog.open import open_objects
from tests.conformance.object_backend import keys
from tests.conformance.object_suite import ObjectSuite


class TestMemoryObjects(ObjectSuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{hashlib.sha256(bytes(tmp_path)).hexdigest()[:16]}"


async def test_a_name_lives_while_a_handle_is_open() -> None:
    async with open_objects("memory://shared") as one:
        await one.put("k", b"x")
        async with open_objects("memory://shared") as two:
            assert await two.get_bytes("k") == b"x"
    async with open_objects("memory://shared") as anew:
        with pytest.raises(ObjectNotFound):
            await anew.head("k")


async def test_stores_without_a_name_share_nothing() -> None:
    async with open_objects("memory://") as one, open_objects("memory://") as two:
        await one.put("k", b"x")
        assert await keys(two) == []


async def test_event_loops_in_several_threads_share_a_name() -> None:
    async def work(number: int) -> None:
        async with open_objects("memory://threads") as store:
            for turn in range(50):
                await store.put(f"{number}/{turn}", b"x")

    async with open_objects("memory://threads") as store:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda number: asyncio.run(work(number)), range(3)))
        assert len(await keys(store)) == 150


async def test_a_full_store_refuses_and_keeps_what_it_has() -> None:
    async with open_objects("memory://?max_bytes=1000") as store:
        await store.put("k", b"x" * 900)
        with pytest.raises(ObjectStoreUnavailable, match="max_bytes"):
            await store.put("more", b"y" * 101)
        assert await keys(store) == ["k"]
        await store.delete("k")
        await store.put("more", b"y" * 1000)


@pytest.mark.parametrize("url", ["memory://a/b", "memory://?max_bytes=0", "memory://?what=1", "memory://u@a"])
async def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with open_objects(url):
            pass


async def test_other_options_than_those_of_an_open_name_are_refused() -> None:
    async with open_objects("memory://options?max_bytes=5"):
        with pytest.raises(ConfigurationError, match="max_bytes=5"):
            async with open_objects("memory://options?max_bytes=6"):
                pass
        async with open_objects("memory://options"):
            pass
