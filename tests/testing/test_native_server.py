"""A server that a test starts for itself is its own, keeps its data across a restart, and is gone with the block."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import nats
import pytest

from dynlog.testing.nats import NatsServer
from dynlog.testing.process import ServerNotAvailable, free_port
from tests.testing.user_project import refuses_connections


async def publish(server: NatsServer) -> int:
    """The sequence that the server gives to one more message of a stream that it keeps."""
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        await client.jetstream().add_stream(name="kept", subjects=["kept"])
        return (await client.jetstream().publish("kept", b"")).seq
    finally:
        await client.close()


async def test_two_servers_run_beside_each_other_and_are_gone_after_their_blocks(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
        assert one.port != two.port
        assert [await publish(one), await publish(one), await publish(two)] == [1, 2, 1]
    assert await refuses_connections(one.port)
    assert await refuses_connections(two.port)


async def test_a_restart_keeps_port_and_data(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        port = server.port
        assert await publish(server) == 1
        await server.restart()
        assert server.port == port
        assert await publish(server) == 2


async def test_what_a_server_stored_is_there_for_the_next_one(tmp_path: Path) -> None:
    for number in (1, 2):
        async with NatsServer(tmp_path / f"server-{number}", store=tmp_path / "store") as server:
            assert await publish(server) == number


async def test_a_paused_server_holds_connections_and_goes_on_when_resumed(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        assert await publish(server) == 1
        server.pause()
        assert not await server.ready()
        server.resume()
        assert await publish(server) == 2


async def test_a_paused_server_stops_at_once_all_the_same(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        server.pause()
    assert await refuses_connections(server.port)


async def test_a_server_that_cannot_start_says_why_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerNotAvailable, match=r"nats ended while it started:\n(?s:.*)directory"):
        await NatsServer(tmp_path / "server", store=tmp_path / "file").start()


async def test_a_server_that_is_not_there_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNLOG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerNotAvailable, match="`make servers` provides it"):
        await NatsServer(tmp_path / "server").start()


async def test_a_server_that_dies_in_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ServerNotAvailable, match="is not running: start it first"):
        _ = server.pid


async def test_a_start_that_is_cancelled_leaves_no_server(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    starting = asyncio.create_task(server.start())
    while not (tmp_path / "nats.log").exists():  # noqa: ASYNC110  (nobody sets an event)
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await refuses_connections(server.port)


def test_a_servers_port_is_none_that_the_kernel_gives_to_clients() -> None:
    with socket.socket() as client:
        client.bind(("127.0.0.1", 0))
        lowest_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
        assert client.getsockname()[1] >= lowest_of_clients
    ports = [free_port() for _ in range(100)]
    assert all(port < lowest_of_clients for port in ports)
    assert len(set(ports)) > 90
