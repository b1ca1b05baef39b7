"""Every history of concurrent clients is linearizable, whoever is killed, stopped or cut off meanwhile, on any engine.

DYNLOG_ROUNDS is how often each fault strikes (3 by default, a third of that on Kafka); set DYNLOG_SEED to the seed that
a failure prints to have the same choices made again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from pathlib import Path

import pytest

from dynlog.kv import open_kv
from dynlog.open import open_log
from dynlog.testing.kafka import KafkaServer
from dynlog.testing.process import free_port
from dynlog.testing.programs import find_in_cache
from dynlog.testing.redis import RedisServer
from tests.faults.proxy import Network, Proxy
from tests.kv.linearizability.campaign import BUCKET, Campaign, judged
from tests.kv.linearizability.checker import check
from tests.kv.linearizability.history import Recorder, by_key, read_history
from tests.kv.linearizability.working import Client, read_finally

ROUNDS = int(os.environ.get("DYNLOG_ROUNDS") or 3)
OUTAGE_S = float(os.environ.get("DYNLOG_OUTAGE_S") or 2)
"""How long a fault lasts at most."""
pytestmark = pytest.mark.timeout(120 + ROUNDS * (OUTAGE_S + 60))


class Fault(Enum):
    """What happens to the server or to the way there."""

    KILLED = "killed"
    PAUSED = "paused"
    CUT = "cut off"
    HELD = "held up"
    SILENT = "half-open"


NETWORKS = {Fault.CUT: Network.RESET, Fault.HELD: Network.HELD, Fault.SILENT: Network.SILENT}


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    chosen = int(os.environ.get("DYNLOG_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"{request.node.name}: seed {chosen}, {ROUNDS} rounds")
    return chosen


async def kill_a_client(campaign: Campaign) -> None:
    await campaign.replace_client(random.Random(campaign.seed + campaign.answered))


async def test_tasks_of_one_process_on_memory(tmp_path: Path, seed: int) -> None:
    history = tmp_path / "history"
    with Recorder(history) as recorder:
        async with open_log("memory://") as log, open_kv(log) as one, open_kv(log) as other:
            buckets = [await one.create(BUCKET), await other.bucket(BUCKET)]
            left = iter(range(3_000))
            async with asyncio.TaskGroup() as group:
                for number in range(6):
                    client = Client(buckets[number % 2], recorder, f"t{number}", random.Random(f"{seed}.{number}"))
                    group.create_task(client.work(lambda: next(left, None) is not None, lambda: None))
            await read_finally(buckets[0], recorder, sorted(by_key(read_history(history))))
    assert check(read_history(history)) == []


@pytest.mark.dynlog_engines("sqlite", "redis", "kafka")
async def test_clients_killed_in_the_middle_of_what_they_do(dynlog_log_url: str, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "histories"
    folder.mkdir()
    rounds = -(-ROUNDS // 3) if dynlog_log_url.startswith("kafka") else ROUNDS  # which take a minute there
    await judged(dynlog_log_url, dynlog_log_url, folder, seed, rounds, kill_a_client)


class Harmed:
    """A server that a test may harm, behind a proxy."""

    def __init__(self, server: RedisServer | KafkaServer, proxy: Proxy, url: str, direct: str) -> None:
        self.server, self.proxy, self.url, self.direct = server, proxy, url, direct

    async def suffer(self, fault: Fault, seconds: float) -> None:
        """The fault, for so long, and its end."""
        match fault:
            case Fault.KILLED:
                await self.server.kill()
                await asyncio.sleep(min(seconds, 1))
                await self.server.restart()
            case Fault.PAUSED:
                self.server.pause()
                await asyncio.sleep(seconds)
                self.server.resume()
            case _:
                self.proxy.set(NETWORKS[fault])
                await asyncio.sleep(seconds)
                self.proxy.mend()


@asynccontextmanager
async def a_redis(tmp_path: Path) -> AsyncIterator[Harmed]:
    """A Redis of its own that syncs every append."""
    async with RedisServer(tmp_path / "redis") as server, Proxy(server.port) as proxy:
        yield Harmed(server, proxy, f"redis://127.0.0.1:{proxy.port}/0", server.url)


@asynccontextmanager
async def a_kafka(tmp_path: Path) -> AsyncIterator[Harmed]:
    """A broker of its own, which tells its clients to come through the proxy."""
    hidden, direct, controller = (free_port() for _ in range(3))
    program = find_in_cache("kafka", provide="`make servers` provides it")
    async with Proxy(hidden, port=free_port()) as proxy:
        listeners = {"PLAINTEXT": hidden, "DIRECT": direct, "CONTROLLER": controller}
        settings = {
            "listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, at in listeners.items()),
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port},DIRECT://127.0.0.1:{direct}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "DIRECT",
        }
        folder = tmp_path / "kafka"
        async with KafkaServer(folder, program, port=hidden, voters={1: controller}, settings=settings) as server:
            yield Harmed(server, proxy, f"kafka://127.0.0.1:{proxy.port}/kv", f"kafka://127.0.0.1:{direct}/kv")


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("have", [a_redis, a_kafka], ids=["redis", "kafka"])
async def test_a_server_in_trouble_and_clients_killed_beside(
    have: Callable[[Path], AbstractAsyncContextManager[Harmed]], fault: Fault, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    folder = tmp_path / "histories"
    folder.mkdir()
    async with have(tmp_path) as harmed:

        async def strike(campaign: Campaign) -> None:
            await harmed.suffer(fault, dice.uniform(0.1, OUTAGE_S))
            if dice.random() < 0.5:
                await kill_a_client(campaign)

        # A network that swallows everything is noticed by a deadline of 10 s, and a broker and its clients take their
        # time to get over anything: these strike less often.
        strikes = -(-ROUNDS // 3) if fault is Fault.SILENT or have is a_kafka else ROUNDS
        await judged(harmed.url, harmed.direct, folder, seed, strikes, strike)
