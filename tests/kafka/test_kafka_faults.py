"""A broker that is killed, paused or cut off in the middle of the load: nothing acknowledged is lost or doubled.

Rounds, outages and seed are as tests/rounds.py says; of three rounds one has an outage of full length.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from dynlog.errors import DeadlineExceeded, DynlogError, LogUnavailable, OutcomeUnknown
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.testing.kafka import KafkaServer, kafka_cluster
from dynlog.testing.process import ServerNotAvailable, free_port
from tests.faults.proxy import Direction, Network, Proxy
from tests.kafka.campaign import working
from tests.rounds import brief, outage_s, rounds

ROUNDS, OUTAGE_S = rounds(), outage_s()
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120 + ROUNDS * (OUTAGE_S + 60))]


class Fault(Enum):
    KILLED = "killed"
    PAUSED = "paused"
    CUT = "cut off"
    HELD = "held up"
    SILENT = "half-open"


_NETWORKS = {Fault.CUT: Network.CUT, Fault.HELD: Network.HELD, Fault.SILENT: Network.SILENT}


class Broker:
    """A broker that tests may harm, behind a proxy; every test has a log of its own on it and finds it whole."""

    def __init__(self, server: KafkaServer, proxy: Proxy, direct: int) -> None:
        self.server, self.proxy, self._direct = server, proxy, direct
        self._prefix = ""

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.proxy.port}/{self._prefix}"

    @property
    def direct_url(self) -> str:
        return f"kafka://127.0.0.1:{self._direct}/{self._prefix}"

    async def renew(self) -> None:
        """Whole again, and a log that nobody has used."""
        self._prefix = uuid4().hex
        self.proxy.watch(None)
        self.proxy.mend()
        self.server.resume()
        try:
            assert self.server.pid
        except ServerNotAvailable:
            await self.server.restart()

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
            case _:
                self.proxy.set(_NETWORKS[fault])
                await asyncio.sleep(seconds)
                self.proxy.mend()

    def hold_answers(self) -> asyncio.Event:
        """From the next answer on nothing arrives any more; what was asked has.  Set once there was that answer."""
        held = asyncio.Event()

        def seen(way: Direction, _: bytes) -> None:
            if way is Direction.TO_CLIENT:
                self.proxy.watch(None)
                self.proxy.set(Network.HELD)
                held.set()

        self.proxy.watch(seen)
        return held

    def lose_answers(self) -> None:
        """What was held is lost with its connection, and the network is whole again."""
        self.proxy.set(Network.RESET)
        self.proxy.mend()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(kafka_program: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    hidden, direct, controller = (free_port() for _ in range(3))
    async with Proxy(hidden, port=free_port()) as proxy:
        listeners = {"PLAINTEXT": hidden, "DIRECT": direct, "CONTROLLER": controller}
        settings = {
            "listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, at in listeners.items()),
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port},DIRECT://127.0.0.1:{direct}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "DIRECT",
        }
        folder, voters = tmp_path_factory.mktemp("kafka-faults"), {1: controller}
        async with KafkaServer(folder, kafka_program, port=hidden, voters=voters, settings=settings) as server:
            yield Broker(server, proxy, direct)


@pytest_asyncio.fixture(loop_scope="module")
async def broker(shared: Broker) -> Broker:
    await shared.renew()
    return shared


@pytest.mark.parametrize("fault", Fault)
async def test_no_acknowledged_record_is_lost_and_none_doubled_when_a_broker_is(
    broker: Broker, dice: random.Random, fault: Fault
) -> None:
    async with working(broker.url, broker.direct_url) as campaign:
        for number in range(-(-ROUNDS // 3) if fault is Fault.SILENT else ROUNDS):  # it takes 10 s to be noticed
            await campaign.more(dice.randrange(30, 300))
            await broker.suffer(fault, brief(number, dice))
        await campaign.more(30)


async def test_with_three_nodes_a_killed_leader_costs_no_acknowledged_record(
    kafka_program: Path, tmp_path: Path, dice: random.Random
) -> None:
    async with kafka_cluster(tmp_path, kafka_program) as servers:
        url = f"kafka://{','.join(server.address for server in servers)}/three"
        async with open_log(url) as log:
            assert str(log.capabilities.durability) == "replicated(2)"
        async with working(url, url) as campaign:
            for _ in range(ROUNDS):
                await campaign.more(dice.randrange(30, 200))
                victim = dice.choice(servers)
                await victim.kill()
                await campaign.more(60)  # the two others go on
                await victim.restart()


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
        held = broker.hold_answers()
        append = asyncio.create_task(log.append("t", 0, [Record(parts=(b"b",))]))  # no mark: nobody else could tell
        assert len(await beside.read(position, wait=20)) == 1
        async with asyncio.timeout(20):
            await held.wait()  # the record may be there before it was acknowledged
        assert not append.done()
        broker.lose_answers()
        assert (await append).offsets == (1,)
        assert (await log.append("t", 0, [Record(parts=(b"c",))])).offsets == (2,)
        assert [item.record.parts for item in await log.read(await log.position("t", 0))] == [(b"a",), (b"b",), (b"c",)]


async def test_a_given_up_append_does_not_take_the_place_of_the_next(broker: Broker) -> None:
    async with open_log(broker.url) as log, open_log(broker.direct_url) as beside:
        await log.create_topic("t")
        await log.append("t", 0, [Record(parts=(b"a",))])
        position = await beside.position("t", 0, "end")
        broker.hold_answers()
        with pytest.raises(OutcomeUnknown):
            await log.append("t", 0, [Record(parts=(b"given up",))], timeout=1.0)
        assert len(await beside.read(position, wait=20)) == 1
        broker.lose_answers()
        assert (await log.append("t", 0, [Record(parts=(b"c",))])).offsets == (2,)
