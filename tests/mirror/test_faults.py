"""Outages under a mirror: NATS killed and back, connections that break at any byte, a log that is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.errors import LogUnavailable, SourceUnavailable, TopicNotFound
from dynlog.log import Log
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.keeping import keep_mirroring
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


async def test_a_subject_without_a_stream_survives_cut_connections_at_least_once(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    told, subject = Told(), f"core-{old.name}"
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    await old.client.subscribe(subject, cb=hear)
    await old.client.flush()
    async with Proxy(int(old.url.rpartition(":")[2])) as proxy:
        access = NatsAccess(f"nats://127.0.0.1:{proxy.port}")
        async with running(lambda nats: mirror_out(nats, access, log, "t", [subject], told), access):
            for number in range(60):
                await append(log, "t", b"%d" % number)
                if number % 20 == 10:
                    proxy.set(Network.CUT)
                    proxy.mend()
            await told.until(lambda now: now.position == {0: 60} and not now.outage)
    await old.client.flush()
    assert sorted(set(map(int, heard))) == list(range(60))


async def test_an_outage_longer_than_the_patience_ends_the_mirror_with_its_reason() -> None:
    async def away(heard: object) -> None:
        raise SourceUnavailable("away")

    told = Told()
    with pytest.raises(SourceUnavailable, match="away"):
        await keep_mirroring(away, Standing("in", "s", "t"), told, patience_s=0.2)
    assert told.last is not None
    assert told.last.outage == "away"


async def test_a_session_that_hangs_after_an_outage_is_ended_by_the_patience_and_one_that_goes_on_is_not() -> None:
    standing, lives, went_on = Standing("in", "s", "t"), 0, asyncio.Event()

    async def session(heard: Callable[[Standing], None]) -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            heard(standing)
            await asyncio.sleep(0.3)
            went_on.set()
        if lives == 3:
            await asyncio.Event().wait()
        raise LogUnavailable(f"away {lives}")

    with pytest.raises(LogUnavailable, match="away 2"):
        await keep_mirroring(session, standing, Told(), patience_s=0.2)
    assert (lives, went_on.is_set()) == (3, True)


async def test_a_mirror_that_has_nothing_to_do_hears_that_its_topic_is_gone(
    old: OldSide, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.migrations.mirror.inward.PROGRESS_S", 0.0)
    await old.publish("a", b"1")
    told = Told()
    async with open_nats(old.access) as nats, asyncio.timeout(30):
        mirror = asyncio.create_task(mirror_stream(nats, log, old.name, "t", told))
        await told.until(lambda now: now.position == 1)
        await log.delete_topic("t")
        with pytest.raises(TopicNotFound):
            await mirror
