"""A broker that is killed, paused or cut off in the middle of the load: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path

import pytest

from dynlog.errors import DeadlineExceeded, DynlogError, LogUnavailable, OutcomeUnknown
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.testing.kafka import KafkaServer, kafka_cluster
from dynlog.testing.process import free_port
from tests.kafka.campaign import Campaign, ready
from tests.kafka.proxy import Proxy

ROUNDS = 3
AWAY_S = 3.0


class Fault(Enum):
    KILLED = "killed"
    PAUSED = "paused"
    CUT = "cut"
    HELD = "held"


class Broker:
    """A broker of the test's own, behind a proxy."""

    def __init__(self, server: KafkaServer, proxy: Proxy, port: int, direct: int) -> None:
        self.server, self.proxy = server, proxy
        self.url = f"kafka://127.0.0.1:{port}/faults"
        self.direct_url = f"kafka://127.0.0.1:{direct}/faults"

    async def suffer(self, fault: Fault, seconds: float) -> None:
        """The fault, for so long, and its end."""
        match fault:
            case Fault.KILLED:
                await self.server.kill()
                await self.server.restart()
            case Fault.PAUSED:
                self.server.pause()
                await asyncio.sleep(seconds)
                self.server.resume()
            case Fault.CUT | Fault.HELD:
                self.proxy.cut() if fault is Fault.CUT else self.proxy.hold()
                await asyncio.sleep(seconds)
                self.proxy.mend()


@pytest.fixture
async def broker(kafka_program: Path, tmp_path: Path) -> AsyncIterator[Broker]:
    port, hidden, direct, controller = (free_port() for _ in range(4))
    settings = {
        "listeners": ",".join(
            f"{name}://127.0.0.1:{at}"
            for name, at in (("PLAINTEXT", hidden), ("DIRECT", direct), ("CONTROLLER", controller))
        ),
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},DIRECT://127.0.0.1:{direct}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "DIRECT",
    }
    proxy = Proxy(port, hidden)
    server = KafkaServer(
        tmp_path / "kafka", kafka_program, port=hidden, voters={1: controller}, settings=settings
    )  # fmt: skip
    async with server, proxy.running():
        yield Broker(server, proxy, port, direct)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("fault", Fault)
async def test_no_acknowledged_record_is_lost_and_none_doubled_when_a_broker_is(broker: Broker, fault: Fault) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    campaign = await ready(broker.url)
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(campaign.produce(number))
        group.create_task(campaign.consume())
        for _ in range(ROUNDS):
            await campaign.more(chance.randrange(30, 300))
            await broker.suffer(fault, chance.uniform(0.5, AWAY_S))
        await campaign.more(30)
        campaign.stop.set()
    await campaign.judge()


@pytest.mark.timeout(200)
async def test_with_three_nodes_a_killed_leader_costs_no_acknowledged_record(
    kafka_program: Path, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with kafka_cluster(tmp_path, kafka_program) as servers:
        url = f"kafka://{','.join(server.address for server in servers)}/three"
        campaign: Campaign = await ready(url)
        async with open_log(url) as log:
            assert str(log.capabilities.durability) == "replicated(2)"
        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(campaign.produce(number))
            group.create_task(campaign.consume())
            for _ in range(ROUNDS):
                await campaign.more(chance.randrange(30, 200))
                victim = chance.choice(servers)
                await victim.kill()
                await campaign.more(60)  # the two others go on
                await victim.restart()
            campaign.stop.set()
        await campaign.judge()


async def test_every_call_ends_in_its_time_and_close_within_seconds_although_the_broker_is_stopped(
    broker: Broker,
) -> None:
    async with open_log(broker.url) as log:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"a",))])
        position = await log.position("t", 0, "end")
        waiting = asyncio.create_task(log.read(position, wait=60))
        broker.server.pause()
        try:
            for call in (
                log.append("t", 0, [Record(parts=(b"b",))], timeout=0.5),
                log.topic("t", timeout=0.5),
                log.partitions("t", timeout=0.5),
                log.register_producer("p", timeout=0.5),
                log.create_topic("u", timeout=0.5),
                log.commit("g", "t", {0: 0}, generation=1, timeout=0.5),
            ):
                started = time.monotonic()
                with pytest.raises((DeadlineExceeded, OutcomeUnknown, LogUnavailable)):
                    await call
                assert time.monotonic() - started < 3
            started = time.monotonic()
            await log.close()
            assert time.monotonic() - started < 15
            with pytest.raises(DynlogError):
                await waiting
        finally:
            broker.server.resume()


async def test_an_append_goes_on_when_a_paused_broker_goes_on_in_time(broker: Broker) -> None:
    async with open_log(broker.url) as log:
        await log.create_topic("t")
        broker.server.pause()
        append = asyncio.create_task(log.append("t", 0, [Record(parts=(b"a",))]))
        done, _ = await asyncio.wait([append], timeout=0.3)
        broker.server.resume()
        assert not done
        assert (await append).offsets == (0,)


async def test_a_log_whose_broker_is_killed_is_usable_again_after_its_restart(broker: Broker) -> None:
    async with open_log(broker.url) as log:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"a",))])
        await broker.server.kill()
        with pytest.raises((LogUnavailable, OutcomeUnknown, DeadlineExceeded)):
            await log.append("t", 0, [Record(parts=(b"lost",))], timeout=0.5)
        await broker.server.restart()
        assert (await log.append("t", 0, [Record(parts=(b"b",))])).offsets == (1,)
        assert len(await log.read(await log.position("t", 0))) == 2


async def test_an_append_whose_acknowledgement_was_lost_is_sent_again_and_stored_once(broker: Broker) -> None:
    async with open_log(broker.url) as log, open_log(broker.direct_url) as beside:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"a",))])
        position = await beside.position("t", 0, "end")
        broker.proxy.hold_answers()
        append = asyncio.create_task(log.append("t", 0, [Record(parts=(b"b",))]))  # no mark: nobody else could tell
        assert len(await beside.read(position, wait=20)) == 1
        assert not append.done()
        broker.proxy.cut()
        broker.proxy.mend()
        assert (await append).offsets == (1,)
        assert (await log.append("t", 0, [Record(parts=(b"c",))])).offsets == (2,)
        assert [item.record.parts for item in await log.read(await log.position("t", 0))] == [(b"a",), (b"b",), (b"c",)]


async def test_a_given_up_append_does_not_take_the_place_of_the_next(broker: Broker) -> None:
    async with open_log(broker.url) as log, open_log(broker.direct_url) as beside:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"a",))])
        position = await beside.position("t", 0, "end")
        broker.proxy.hold_answers()
        with pytest.raises(OutcomeUnknown):
            await log.append("t", 0, [Record(parts=(b"given up",))], timeout=1.0)
        assert len(await beside.read(position, wait=20)) == 1
        broker.proxy.cut()
        broker.proxy.mend()
        assert (await log.append("t", 0, [Record(parts=(b"c",))])).offsets == (2,)
