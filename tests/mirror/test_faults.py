"""Outages under a mirror: NATS killed and back, connections that break at any byte, a log that is away."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dynlog.adapters.nats.access import NatsAccess
from dynlog.errors import SourceUnavailable
from dynlog.log import Log
from dynlog.migrations.mirror.running import mirror_out, mirror_stream
from dynlog.testing.nats import NatsServer
from tests.faults.proxy import Network, Proxy
from tests.mirror.sides import OldSide, Told, append, bodies, old_side, running

MANY = 400


async def test_nats_killed_under_both_directions_loses_and_doubles_nothing(tmp_path: Path, log: Log) -> None:
    await log.create_topic("t")
    inward, outward = Told(), Told()
    async with NatsServer(tmp_path / "nats", sync_always=True) as server, AsyncExitStack() as stack:
        old = await stack.enter_async_context(old_side(server.url, "kept"))
        await stack.enter_async_context(
            running(lambda nats: mirror_stream(nats, log, old.name, "t", inward), old.access)
        )
        await stack.enter_async_context(
            running(lambda nats: mirror_out(nats, old.access, log, "t", [f"{old.name}.new"], outward), old.access)
        )
        published: list[bytes] = []
        for round_ in range(3):
            for number in range(20):
                body = b"old %d %d" % (round_, number)
                await old.publish("old", body)
                published.append(body)
                await append(log, "t", b"new %d %d" % (round_, number))
            await server.kill()
            for number in range(20, 30):
                await append(log, "t", b"new %d %d" % (round_, number))
            await server.start()
        await outward.until(lambda now: now.position == {0: 150} and not now.behind and not now.outage)
        await inward.until(lambda now: now.position == 150 and not now.outage)
        await old.js.stream_info(old.name)
        for side in (await bodies(log, "t"), await old.bodies()):
            assert [body for body in side if body.startswith(b"old")] == published
            new = [body for body in side if body.startswith(b"new")]
            assert new == [b"new %d %d" % (r, n) for r in range(3) for n in range(30)]


async def test_a_connection_cut_at_random_bytes_keeps_the_order_outwards(
    old: OldSide, log: Log, dice: random.Random
) -> None:
    await log.create_topic("t")
    told = Told()
    port = int(old.url.rpartition(":")[2])
    async with Proxy(port) as proxy:
        access = NatsAccess(f"nats://127.0.0.1:{proxy.port}")
        async with running(lambda nats: mirror_out(nats, access, log, "t", [f"{old.name}.new"], told), access):
            for number in range(MANY):
                await append(log, "t", b"%d" % number + b"." * dice.randrange(2000))
                if number % 40 == 20:
                    proxy.set(Network.CUT)
                    proxy.mend()
            await told.until(lambda now: now.position == {0: MANY} and not now.outage)
    assert [int(body.partition(b".")[0]) for body in await old.bodies()] == list(range(MANY))


async def test_nats_that_stays_away_for_longer_than_the_patience_ends_the_mirror(tmp_path: Path, log: Log) -> None:
    told = Told()
    async with NatsServer(tmp_path / "nats") as server, old_side(server.url, "gone") as old:
        async with running(
            lambda nats: mirror_stream(nats, log, old.name, "t", told, patience_s=0.5), old.access
        ) as mirror:
            await old.publish("a", b"1")
            await told.until(lambda now: now.counts.copied == 1)
            await server.kill()
            with pytest.raises(SourceUnavailable):
                await asyncio.wait_for(mirror, 30)
        await server.start()
