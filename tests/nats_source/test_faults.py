"""A server that goes away, comes back, forgets or replaces what is read: nothing is missed or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from time import monotonic

import pytest
from nats.js.api import StorageType

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.adapters.nats.objects import find_object, read_object
from dynlog.adapters.nats.streams import StreamMessage, read_stream, stream_info
from dynlog.errors import DynlogError, SourceChanged, SourceUnavailable
from dynlog.testing.kinds import RunningServer
from dynlog.testing.nats import NatsServer as Served
from tests.faults.proxy import Network, Proxy
from tests.nats_source.source import Writer, all_of, name_of, sequences, writing

BODY = b"x" * 2000
COUNT = 3000
"""More than is ever on its way."""
both_ways = pytest.mark.parametrize("direct", [True, False], ids=["direct", "leader"])


async def some(reading: AsyncGenerator[StreamMessage, None], count: int) -> list[int]:
    return [(await anext(reading)).sequence for _ in range(count)]


@both_ways
async def test_a_server_that_is_killed_while_it_is_read_is_waited_for_and_nothing_is_missed_or_doubled(
    tmp_path: Path, direct: bool
) -> None:
    async with Served(tmp_path / "nats") as server:
        async with writing(server.url) as writer:
            await writer.stream("s", direct=direct, storage=StorageType.FILE)
            await writer.fill("s", COUNT, BODY)
        async with open_nats(NatsAccess(server.url)) as source:
            reading = read_stream(source, await stream_info(source, "s"), first=1, last=COUNT)
            found = await some(reading, 10)
            for _ in range(2):
                await server.kill()
                going = asyncio.create_task(some_in_time(reading, 1200))
                await server.start()
                found += await going
            found += sequences(await all_of(reading))
            assert found == list(range(1, COUNT + 1))
            assert source.client.waiting == 0


async def some_in_time(reading: AsyncGenerator[StreamMessage, None], count: int) -> list[int]:
    async with asyncio.timeout(60):
        return await some(reading, count)


@both_ways
async def test_a_server_that_stays_away_ends_the_read_at_its_deadline(tmp_path: Path, direct: bool) -> None:
    async with Served(tmp_path / "nats") as server:
        async with writing(server.url) as writer:
            await writer.stream("s", direct=direct)
            await writer.fill("s", COUNT, BODY)
        async with open_nats(NatsAccess(server.url), patience=0.5) as source:
            info = await stream_info(source, "s")
            reading = read_stream(source, info, first=1, last=COUNT)
            await some(reading, 1)
            await server.kill()
            with pytest.raises(SourceUnavailable, match=r"nats://127\.0\.0\.1:\d+ is away"):
                await all_of(reading)
            begun = monotonic()
            with pytest.raises(SourceUnavailable):
                await source.api("INFO", timeout=0.3)
            assert monotonic() - begun < 3


@both_ways
@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "made anew"])
async def test_a_stream_that_is_deleted_or_made_anew_while_it_is_read_is_not_taken_for_one_that_ended(
    nats_server: RunningServer, writer: Writer, direct: bool, anew: bool
) -> None:
    name = name_of("gone")
    await writer.stream(name, direct=direct)
    await writer.fill(name, COUNT, BODY)
    async with open_nats(NatsAccess(nats_server.url), answer=0.3) as source:
        reading = read_stream(source, await stream_info(source, name), first=1, last=COUNT)
        await some(reading, 1)
        await writer.js.delete_stream(name)
        if anew:
            await writer.stream(name, direct=direct)
            await writer.fill(name, 5)
        with pytest.raises(SourceChanged, match="made anew" if anew else "was deleted"):
            await all_of(reading)


@both_ways
async def test_what_retention_takes_away_while_it_is_read_is_left_out(
    source: NatsServer, writer: Writer, direct: bool
) -> None:
    name = name_of("purged")
    await writer.stream(name, direct=direct)
    await writer.fill(name, COUNT, BODY)
    reading = read_stream(source, await stream_info(source, name), first=1, last=COUNT)
    found = await some(reading, 1)
    await writer.api(f"STREAM.PURGE.{name}", {"seq": COUNT - 5})
    found += sequences(await all_of(reading))
    assert found[-6:] == list(range(COUNT - 5, COUNT + 1))
    assert found == sorted(set(found))
    assert len(found) < COUNT


async def test_an_object_is_read_over_a_server_that_is_killed(tmp_path: Path) -> None:
    async with Served(tmp_path / "nats") as server:
        body = bytes(range(256)) * (20 << 10)
        async with writing(server.url) as writer:
            await (await writer.js.create_object_store("b")).put("o", body)
        async with open_nats(NatsAccess(server.url)) as source:
            reading = read_object(source, await find_object(source, "b", "o"))
            chunks = [await anext(reading)]
            await server.kill()
            await server.start()
            chunks += await all_of(reading)
            assert b"".join(chunks) == body


async def test_a_connection_that_is_half_open_is_found_out_and_what_was_asked_is_asked_again(
    nats_server: RunningServer, writer: Writer
) -> None:
    name = name_of("silent")
    await writer.stream(name)
    await writer.fill(name, COUNT, BODY)
    async with (
        Proxy(nats_server.port) as proxy, open_nats(NatsAccess(f"nats://127.0.0.1:{proxy.port}")) as source,
    ):  # fmt: skip
        reading = read_stream(source, await stream_info(source, name), first=1, last=COUNT)
        found = await some(reading, 1)
        proxy.set(Network.SILENT)
        proxy.mend()
        found += sequences(await asyncio.wait_for(all_of(reading), 60))
        assert found == list(range(1, COUNT + 1))


@both_ways
async def test_a_read_that_is_cancelled_leaves_no_question(
    nats_server: RunningServer, writer: Writer, direct: bool
) -> None:
    name = name_of("cancelled")
    await writer.stream(name, direct=direct)
    await writer.fill(name, COUNT, BODY)
    async with (
        Proxy(nats_server.port) as proxy, open_nats(NatsAccess(f"nats://127.0.0.1:{proxy.port}")) as source,
    ):  # fmt: skip
        info = await stream_info(source, name)
        proxy.set(Network.HELD)
        reading = asyncio.create_task(all_of(read_stream(source, info, first=1, last=COUNT)))
        await asyncio.wait([reading], timeout=0.1)
        assert source.client.waiting > 0
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert source.client.waiting == 0
        proxy.mend()


async def test_after_the_connection_was_closed_every_call_says_so(nats_server: RunningServer) -> None:
    async with open_nats(NatsAccess(nats_server.url)) as source:
        pass
    with pytest.raises(DynlogError, match="was ended"):
        await source.api("INFO")
