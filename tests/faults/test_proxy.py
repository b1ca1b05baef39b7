"""The proxy does to a connection what it says, so that what is tested with it was tested."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Direction, Network, Proxy


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that says what it hears."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with echo() as port, Proxy(port) as made:
        yield made


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def test_what_is_held_arrives_whole_after_mending(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.set(Network.HELD)
    writer.write(b"later")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(1), 0.1)
    proxy.mend()
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"later"
    writer.close()


async def test_a_silent_connection_stays_dead_and_a_new_one_works_after_mending(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.set(Network.SILENT)
    writer.write(b"swallowed")
    proxy.mend()
    writer.write(b"still swallowed")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    _, another = await connect(proxy)
    writer.close()
    another.close()


@pytest.mark.parametrize("network", [Network.CUT, Network.RESET])
async def test_a_cut_ends_connections_and_refuses_new_ones_until_mended(proxy: Proxy, network: Network) -> None:
    reader, writer = await connect(proxy)
    proxy.set(network)
    try:
        assert await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionResetError:
        assert network is Network.RESET
    else:
        assert network is Network.CUT
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await connect(proxy)
    proxy.mend()
    _, another = await connect(proxy)
    writer.close()
    another.close()


async def test_one_bit_of_the_next_large_piece_is_flipped_and_no_other(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.corrupt_next(Direction.TO_CLIENT, at_least=4)
    for said, heard in ((b"abc", b"abc"), (b"abcd", b"absd"), (b"abcd", b"abcd")):
        writer.write(said)
        assert await asyncio.wait_for(reader.readexactly(len(said)), 5) == heard
    writer.close()
