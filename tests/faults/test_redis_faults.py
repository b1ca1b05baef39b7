"""Redis killed, stopped, cut off, reset and half-open in the middle of appends, reads and commits: nothing acknowledged
is lost, nothing is applied twice, and everybody goes on by itself.

Rounds, outages and seed are as tests/rounds.py says.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.errors import LogCorrupt, LogUnavailable, OutcomeUnknown
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.testing.redis import RedisServer
from tests.faults.campaign import campaign
from tests.faults.proxy import Direction, Network, Proxy
from tests.rounds import outage_s, rounds

ROUNDS, OUTAGE_S = rounds(), outage_s()
pytestmark = pytest.mark.timeout(120 + ROUNDS * (OUTAGE_S + 60))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis that fsyncs every append."""
    async with RedisServer(tmp_path / "redis") as started:
        yield started


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as made:
        yield made


async def test_a_server_killed_and_restarted_under_load(server: RedisServer, dice: random.Random) -> None:
    async def strike() -> None:
        await server.kill()
        await asyncio.sleep(dice.uniform(0, 1))
        await server.restart()

    await campaign(server.url, server.url, strike, ROUNDS, dice)


async def test_a_server_stopped_for_three_seconds_under_load(server: RedisServer, dice: random.Random) -> None:
    async def strike() -> None:
        server.pause()
        await asyncio.sleep(OUTAGE_S)
        server.resume()

    await campaign(server.url, server.url, strike, ROUNDS, dice)


@pytest.mark.parametrize("network", [Network.CUT, Network.RESET, Network.HELD, Network.SILENT])
async def test_a_network_that_fails_for_three_seconds_under_load(
    server: RedisServer, proxy: Proxy, dice: random.Random, network: Network
) -> None:
    async def strike() -> None:
        proxy.set(network)
        await asyncio.sleep(OUTAGE_S)
        proxy.mend()

    url = f"redis://127.0.0.1:{proxy.port}/0"
    await campaign(url, server.url, strike, ROUNDS, dice)


async def test_connections_that_break_again_and_again_in_the_middle_of_a_reply(
    server: RedisServer, proxy: Proxy, dice: random.Random
) -> None:
    async def strike() -> None:
        for _ in range(10):
            struck = asyncio.Event()

            def seen(way: Direction, piece: bytes, struck: asyncio.Event = struck) -> None:
                if way is Direction.TO_CLIENT:
                    proxy.watch(None)
                    proxy.break_connections(reset=bool(len(piece) % 2))
                    struck.set()

            proxy.watch(seen)
            async with asyncio.timeout(30):
                await struck.wait()

    await campaign(f"redis://127.0.0.1:{proxy.port}/0", server.url, strike, ROUNDS, dice)


async def test_a_bit_flipped_on_the_way_is_found_and_never_handed_out(server: RedisServer, proxy: Proxy) -> None:
    big = [Record(parts=(os.urandom(20_000),)) for _ in range(2)]
    async with open_log(f"redis://127.0.0.1:{proxy.port}/0") as log:
        await log.create_topic("t")
        await log.append("t", 0, big[:1])
        position = await log.position("t", 0)
        proxy.corrupt_next(Direction.TO_CLIENT, at_least=10_000)
        with pytest.raises(LogCorrupt):
            await log.read(position)
        assert [item.record for item in await log.read(position)] == big[:1], "what is stored is sound"

        proxy.corrupt_next(Direction.TO_SERVER, at_least=10_000)
        await log.append("t", 0, big[1:])
        with pytest.raises(LogCorrupt):
            await log.read((await log.read(position)).next_position)
        assert [(damage.start, damage.end) async for damage in log.verify()] == [(1, 2)]


async def test_an_append_without_marks_whose_reply_is_lost_says_that_it_may_be_stored(
    server: RedisServer, proxy: Proxy
) -> None:
    async with open_log(f"redis://127.0.0.1:{proxy.port}/0") as log:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"first",))])

        def strike(way: Direction, piece: bytes) -> None:
            if way is Direction.TO_CLIENT:
                proxy.watch(None)
                proxy.break_connections(reset=True)

        proxy.watch(strike)
        with pytest.raises(OutcomeUnknown):
            await log.append("t", 0, [Record(parts=(b"unmarked",))])
        proxy.watch(strike)
        marked = [Record(parts=(b"marked",), mark=Mark("p", 1, 0))]
        assert (await log.append("t", 0, marked)).offsets == (2,), "with marks it is sent again by itself"
        proxy.set(Network.CUT)
        with pytest.raises(LogUnavailable):
            await log.topics(timeout=0.5)
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            await log.append("t", 0, [Record(parts=(b"not sent",))], timeout=1)
        assert time.monotonic() - started < 5
        proxy.mend()
        found = [bytes(item.record.parts[0]) for item in await log.read(await log.position("t", 0))]
        assert found == [b"first", b"unmarked", b"marked"]


async def test_closing_while_the_server_is_dead_stopped_or_silent_returns_in_seconds(
    server: RedisServer, proxy: Proxy
) -> None:
    for fault in ("stopped", "silent", "dead"):
        async with open_log(f"redis://127.0.0.1:{proxy.port}/0") as log:
            await log.create_topic("t", exist_ok=True)
            reading = asyncio.create_task(log.read(await log.position("t", 0, "end"), wait=60))
            await asyncio.sleep(0)
            match fault:
                case "stopped":
                    server.pause()
                case "silent":
                    proxy.set(Network.SILENT)
                case "dead":
                    await server.kill()
            started = time.monotonic()
            await log.close()
            assert time.monotonic() - started < 8
            await asyncio.gather(reading, return_exceptions=True)
        server.resume()
        proxy.mend()
