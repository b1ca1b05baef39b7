"""Per wire and fault: the caller gets the right error within its deadline, or its answer, and the server stays up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dynlog.call_errors import CallOutcomeUnknown, NotSent
from dynlog.errors import DeadlineExceeded
from dynlog.network.calls import Request
from dynlog.network.services import Services
from dynlog.network.session_settings import Settings
from dynlog.record import Buffer
from dynlog.testing.kinds import RunningServer
from tests.faults.proxy import Direction, Network, Proxy
from tests.network.call_backend import PATIENCE_S, SERVER, Peer
from tests.network.sessions import Pair, session_pair

QUICK = Settings(ping_after=0.25, dead_after=0.8, resume_within=5.0, handshake_within=2.0)
"""Silence is noticed within a second, so that no scenario takes long."""

SCHEMES = ["tcp", "zmq", "nats", "sse"]


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    return scheme


@pytest.fixture
def nats_port(scheme: str, request: pytest.FixtureRequest) -> int:
    if scheme != "nats":
        return 0
    server: RunningServer = request.getfixturevalue("nats_server")
    return server.port


class Proxied:
    """A server, a caller, and a network between them that can be told to fail."""

    def __init__(self, pair: Pair, proxy: Proxy, services: Services) -> None:
        self.pair, self.proxy = pair, proxy
        self.peer = Peer(pair.path, services)
        self.runs: dict[bytes, int] = {}

    async def still_works(self) -> None:
        """A new call gets its answer, by whatever session."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            with suppress(NotSent, CallOutcomeUnknown, DeadlineExceeded):
                assert await self.peer.ask("echo", b"still", deadline=5.0) == b"still"
                return
            assert asyncio.get_running_loop().time() < deadline


@asynccontextmanager
async def proxied(scheme: str, nats_port: int, settings: Settings = QUICK) -> AsyncIterator[Proxied]:
    """The caller's side goes through the proxy; with NATS it is the way to the server that does."""
    services = Services()
    runs: dict[bytes, int] = {}

    async def echo(request: Request) -> Buffer:
        runs[bytes(request.body)] = runs.get(bytes(request.body), 0) + 1
        return request.body

    async def count(request: Request) -> AsyncIterator[Buffer]:
        for number in range(int(bytes(request.body))):
            yield b"%d" % number
            if number % 50 == 0:
                await asyncio.sleep(0.005)

    async def hold(request: Request) -> Buffer:
        await asyncio.sleep(PATIENCE_S * 2)
        return b"never"

    for topic, handler in (("echo", echo), ("count", count), ("hold", hold)):
        services.add(SERVER, topic, handler)
    listen = {
        "tcp": "tcp://127.0.0.1:0", "zmq": "zmq://127.0.0.1:0", "sse": "sse://127.0.0.1:0/d",
        "nats": f"nats://127.0.0.1:{nats_port}/dynlog.faults.{id(services):x}",
    }[scheme]  # fmt: skip
    # The proxy is made between the two: the dialler is told its port.
    async with session_pair([listen], services, settings) as pair:
        address = pair.addresses[0]
        head, _, rest = address.partition("://")[2].partition("/")
        async with Proxy(int(head.rpartition(":")[2])) as proxy:
            pair.dialler.addresses[:] = [f"{scheme}://127.0.0.1:{proxy.port}" + (f"/{rest}" if rest else "")]
            world = Proxied(pair, proxy, services)
            world.runs = runs
            assert await world.peer.ask("echo", b"hello") == b"hello"
            yield world
            await pair.dialler.close()


async def calls_under(world: Proxied, strike: asyncio.Task[None]) -> None:
    """Numbered calls and streams of several tasks while the network fails: nothing is lost, doubled or out of order."""

    async def ask(task: int) -> None:
        number = 0
        while not strike.done() or number < 20:
            body = b"%d/%d" % (task, number)
            assert await world.peer.ask("echo", body, deadline=PATIENCE_S) == body
            number += 1

    async def stream() -> None:
        while not strike.done():
            assert await world.peer.all("count", b"300") == [b"%d" % number for number in range(300)]

    async with asyncio.TaskGroup() as tasks:
        for task in range(4):
            tasks.create_task(ask(task))
        tasks.create_task(stream())
    await strike
    assert max(world.runs.values()) == 1, "a call that was made once was served twice"


async def test_slow_pieces_change_nothing(scheme: str, nats_port: int) -> None:
    async with proxied(scheme, nats_port) as world:
        world.proxy.delay_s = 0.002
        assert await asyncio.gather(*(world.peer.ask("echo", b"%d" % n) for n in range(32))) == [
            b"%d" % n for n in range(32)
        ]


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
async def test_connections_that_break_again_and_again_lose_no_call_and_double_none(
    scheme: str, nats_port: int, reset: bool
) -> None:
    async def strike() -> None:
        for _ in range(6):
            await asyncio.sleep(0.15)
            world.proxy.break_connections(reset=reset)

    async with proxied(scheme, nats_port) as world:
        await calls_under(world, asyncio.create_task(strike()))


async def test_a_network_that_holds_everything_for_a_while_loses_nothing(scheme: str, nats_port: int) -> None:
    async def strike() -> None:
        for _ in range(3):
            await asyncio.sleep(0.2)
            world.proxy.set(Network.HELD)
            await asyncio.sleep(0.4)
            world.proxy.mend()

    async with proxied(scheme, nats_port) as world:
        await calls_under(world, asyncio.create_task(strike()))


async def test_a_half_open_connection_is_found_out_and_the_session_goes_on_elsewhere(
    scheme: str, nats_port: int
) -> None:
    async def strike() -> None:
        await asyncio.sleep(0.2)
        world.proxy.set(Network.SILENT)
        world.proxy.mend()  # new connections work; those that were there stay dead

    async with proxied(scheme, nats_port) as world:
        await calls_under(world, asyncio.create_task(strike()))


@pytest.mark.parametrize("way", list(Direction), ids=["to-server", "to-client"])
async def test_a_bit_that_flips_on_the_way_reaches_nobody(scheme: str, nats_port: int, way: Direction) -> None:
    async def strike() -> None:
        for _ in range(3):
            await asyncio.sleep(0.2)
            world.proxy.corrupt_next(way, at_least=60)

    async with proxied(scheme, nats_port) as world:
        await calls_under(world, asyncio.create_task(strike()))


async def test_a_network_that_stays_away_ends_calls_by_name_and_by_their_deadline(scheme: str, nats_port: int) -> None:
    async with proxied(scheme, nats_port, replace(QUICK, resume_within=1.5)) as world:
        begun = asyncio.get_running_loop().time()
        running = asyncio.create_task(world.peer.ask("hold", deadline=PATIENCE_S))
        await world.peer.ask("echo", b"behind it")
        world.proxy.set(Network.CUT)
        with pytest.raises((CallOutcomeUnknown, DeadlineExceeded)):
            await running
        with pytest.raises((NotSent, DeadlineExceeded)):
            await world.peer.ask("echo", b"never", deadline=0.5)
        assert asyncio.get_running_loop().time() - begun < PATIENCE_S
        assert b"never" not in world.runs
        world.proxy.mend()
        await world.still_works()


async def test_garbage_and_strangers_at_the_door_change_nothing(scheme: str, nats_port: int, tmp_path: Path) -> None:
    if scheme == "nats":
        return  # its door is the NATS server's
    async with proxied(scheme, nats_port) as world:
        port = int(world.pair.addresses[0].partition("://")[2].partition("/")[0].rpartition(":")[2])
        for garbage in (
            b"", b"\0" * 64, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"dynlog\x01\n" + b"\xff" * 64,
            b"dynlog\x01\n" + (1 << 31).to_bytes(4, "little") + b"\0" * 4, b"dynlog\x02\n", bytes(range(256)) * 64,
        ):  # fmt: skip
            stranger = socket.create_connection(("127.0.0.1", port), timeout=5)
            with suppress(OSError):
                stranger.sendall(garbage)
            assert await world.peer.ask("echo", b"x" + garbage[:10]) == b"x" + garbage[:10]
            stranger.close()
        await world.still_works()
