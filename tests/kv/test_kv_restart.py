"""An engine that is killed under a bucket and comes back: writers go on, watchers miss nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.errors import LogDiverged
from dynlog.kv import Changed, open_kv
from dynlog.open import open_log
from dynlog.testing.redis import RedisServer
from tests.conformance.backend import PATIENCE_S
from tests.kv.backend import NAME, contents, elsewhere, known, said, take, until_ready

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "redis", appendfsync="always") as running:
        yield running


async def test_writers_go_on_and_watchers_miss_nothing_when_the_engine_is_killed_and_comes_back(
    server: RedisServer,
) -> None:
    async with open_log(server.url) as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create(NAME)
        async with elsewhere(server.url) as other, other.watch() as watch:
            await until_ready(watch)

            async def write(numbers: range) -> None:
                for n in numbers:
                    await bucket.put(f"k{n % 3}", b"%d" % n)

            await write(range(10))
            await server.kill()
            meanwhile = asyncio.create_task(write(range(10, 20)))
            entry = await other.get("k0")
            assert entry is not None, "what is known is answered from memory"
            await server.start()
            await asyncio.wait_for(meanwhile, PATIENCE_S)
            seen = [event.entry.value for event in await take(watch, 20) if isinstance(event, Changed)]
            assert seen == [b"%d" % n for n in range(20)], "each once, in order"
            await bucket.compact()
            assert await known(other) == await known(bucket)
        async with elsewhere(server.url) as fresh:
            assert await known(fresh) == await known(bucket)


async def test_a_bucket_whose_engine_lost_what_it_had_acknowledged_says_so_and_can_be_opened_again(
    tmp_path: Path,
) -> None:
    async with (
        RedisServer(tmp_path / "forgetful", appendfsync=None) as server,
        open_log(server.url) as log,
        open_kv(log) as kv,
    ):
        bucket = await kv.create(NAME)
        async with bucket.watch() as watch:
            await bucket.put("k", b"1")
            assert said(await take(watch, 2)) == ["ready", "k=1"]
            await server.kill()
            await server.start()
            with pytest.raises(LogDiverged, match="came back without"):
                await watch.next(PATIENCE_S)
        with pytest.raises(LogDiverged, match="came back without"):
            await bucket.put("k", b"2")
        async with open_log(server.url) as anew, open_kv(anew) as kv_anew:
            assert await contents(await kv_anew.create(NAME)) == {}
