"""A lock among processes that are killed, stopped and cut off, and a server that is: the lock goes on within the TTL
and a little, and what counts was written by one holder at a time.

DYNLOG_ROUNDS is how often each fault strikes (3 by default); set DYNLOG_SEED to the seed that a failure prints to have
the same choices made again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dynlog.testing.redis import RedisServer
from tests.faults.proxy import Network
from tests.kv.leases.fleet import TTL_S, beats, directly, expired, now, running, writable
from tests.kv.linearizability.test_linearizable import Harmed, a_kafka, a_redis

ROUNDS = int(os.environ.get("DYNLOG_ROUNDS") or 3)
OUTAGE_S = float(os.environ.get("DYNLOG_OUTAGE_S") or 2)
pytestmark = pytest.mark.timeout(120 + ROUNDS * 60)
on_all = pytest.mark.dynlog_engines("sqlite", "redis", "kafka")


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    seed = int(os.environ.get("DYNLOG_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"{request.node.name}: seed {seed}, {ROUNDS} rounds")
    return random.Random(seed)


@on_all
async def test_a_holder_that_is_killed_is_followed_by_the_next(dynlog_log_url: str, dice: random.Random) -> None:
    async with directly(dynlog_log_url) as log, running(log, [dynlog_log_url] * 3) as fleet:
        token = -1
        for _ in range(ROUNDS):
            holder, acquired = await fleet.somebody_holds(token)
            await asyncio.sleep(dice.uniform(0, TTL_S))
            struck = now()
            await fleet.kill(holder)
            await fleet.all_saw_the_end(acquired["lease"], struck)
            token = acquired["token"]
            await fleet.somebody_holds(token)
            await fleet.start(dynlog_log_url)


@on_all
async def test_a_holder_that_was_stopped_past_its_ttl_finds_its_writes_losing(
    dynlog_log_url: str, dice: random.Random
) -> None:
    async with directly(dynlog_log_url) as log, running(log, [dynlog_log_url] * 3) as fleet:
        for _ in range(ROUNDS):
            while True:
                holder, acquired = await fleet.somebody_holds()
                await asyncio.sleep(dice.uniform(0, TTL_S))
                struck = now()
                holder.stop()
                if await writable(log):
                    break
                holder.go_on()
                await beats(fleet.bucket, acquired["lease"])
            await fleet.all_saw_the_end(acquired["lease"], struck, but=holder)
            _, following = await fleet.somebody_holds(acquired["token"])
            await asyncio.sleep(dice.uniform(0, 0.5))
            holder.go_on()
            token = acquired["token"]
            late = await fleet.until(lambda: holder.told("late", token=token), "the late write")  # noqa: B023
            assert late["won"] is False
            stopped = holder.told("stopped", token=token)
            assert stopped is not None
            assert stopped["held_at"] < following["held_at"]


@on_all
async def test_observers_that_were_stopped_expire_nobody_on_waking(dynlog_log_url: str, dice: random.Random) -> None:
    async with directly(dynlog_log_url) as log, running(log, [dynlog_log_url] * 3) as fleet:
        holder, acquired = await fleet.somebody_holds()
        for _ in range(ROUNDS):
            observers = [each for each in fleet.contenders if each is not holder]
            while True:
                for each in observers:
                    each.stop()
                if await writable(log):
                    break
                for each in observers:
                    each.go_on()
                await beats(fleet.bucket, acquired["lease"])  # or trying again and again would end the lease
            await asyncio.sleep(TTL_S * dice.uniform(1.5, 2.5))
            for each in observers:
                each.go_on()
            await asyncio.sleep(TTL_S * dice.uniform(0.5, 1.5))
            assert acquired["lease"] in fleet.bucket.leases
        assert fleet.holder == (holder, acquired)
        assert await expired(log, acquired["lease"]) == 0


@pytest.mark.parametrize("network", [Network.RESET, Network.HELD, Network.SILENT])
@pytest.mark.parametrize("have", [a_redis, a_kafka], ids=["redis", "kafka"])
async def test_a_holder_that_is_cut_off_stops_before_the_next_one_begins(
    have: Callable[[Path], AbstractAsyncContextManager[Harmed]], network: Network, tmp_path: Path, dice: random.Random
) -> None:
    async with (
        have(tmp_path) as harmed,
        directly(harmed.direct) as log,
        running(log, [harmed.url, harmed.direct, harmed.direct]) as fleet,
    ):
        cut_off = fleet.contenders[0]
        for _ in range(-(-ROUNDS // 3)):  # a network that swallows everything is noticed by deadlines of 10 s
            while (found := await fleet.somebody_holds())[0] is not cut_off:  # its turn comes when others are gone
                struck = now()
                await fleet.kill(found[0])
                await fleet.all_saw_the_end(found[1]["lease"], struck)
                await fleet.start(harmed.direct)
                await fleet.somebody_holds(found[1]["token"])
            acquired = found[1]
            await asyncio.sleep(dice.uniform(0, TTL_S))
            struck = now()
            harmed.proxy.set(network)
            await fleet.all_saw_the_end(acquired["lease"], struck, but=cut_off)
            _, following = await fleet.somebody_holds(acquired["token"])
            token = acquired["token"]
            stopped = await fleet.until(lambda: cut_off.told("stopped", token=token), "it stopped")  # noqa: B023
            assert stopped["held_at"] < following["held_at"]
            harmed.proxy.mend()
            late = await fleet.until(lambda: cut_off.told("late", token=token), "the late write")  # noqa: B023
            assert late["won"] is False


async def test_a_redis_that_is_killed_and_comes_back_never_makes_two_holders(
    tmp_path: Path, dice: random.Random
) -> None:
    async with (
        RedisServer(tmp_path / "redis") as server,
        directly(server.url) as log,
        running(log, [server.url] * 3) as fleet,
    ):
        for _ in range(ROUNDS):
            _, acquired = await fleet.somebody_holds()
            await server.kill()
            down = dice.choice([0.1, TTL_S / 2, TTL_S * 2])
            await asyncio.sleep(down)
            await server.restart()
            if down > TTL_S:
                await fleet.somebody_holds(acquired["token"])
            else:
                await asyncio.sleep(TTL_S)
