"""A connection read here: in whatever pieces the bytes come, each caller gets its own reply, or hears that it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Connection
from redis.exceptions import NoScriptError, ResponseError

from dynlog.errors import Closed
from dynlog.storage.redis.lane import Lane
from dynlog.storage.redis.link import Facts, Link, drop
from dynlog.storage.redis.wire import Broken, Call
from dynlog.topics import Durability, DurabilityLevel

pytestmark = pytest.mark.timeout(30)
FACTS = Facts("0", (7, 0), Durability(DurabilityLevel.MEMORY), strong=False, ahead_ms=0)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def laned(talk: Talk) -> AsyncIterator[Lane]:
    """A lane to a server that says what a test lets it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()

    async def connect() -> Link:
        connection = Connection(host=host, port=port, protocol=2)
        connection._reader, connection._writer = await asyncio.open_connection(host, port)
        connection._parser.on_connect(connection)  # type: ignore[no-untyped-call]
        return Link(connection, FACTS)

    lane = Lane(connect)
    try:
        yield lane
    finally:
        await lane.close()
        server.close()
        await server.wait_closed()


async def asked(reader: asyncio.StreamReader, many: int = 1) -> None:
    """Reads so many PINGs."""
    await reader.readexactly(len(b"*1\r\n$4\r\nPING\r\n") * many)


WHOLE = (
    b"+OK\r\n"
    b"*5\r\n$2\r\nOK\r\n:17\r\n$0\r\n\r\n*2\r\n$-1\r\n*0\r\n$6\r\na\r\n+b\r\r\n"
    b"-NOSCRIPT No matching script.\r\n"
    b"*-1\r\n"
    b"*2\r\n:1\r\n-ERR inside\r\n"
    b":-4\r\n"
)


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 11, 40, len(WHOLE)])
async def test_replies_are_the_same_in_whatever_pieces_they_come(piece: int) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader, 6)
        for at in range(0, len(WHOLE), piece):
            writer.write(WHOLE[at : at + piece])
            await asyncio.sleep(0.001)

    async with laned(talk) as lane:
        calls = [lane.submit(("PING",)) for _ in range(6)]
        found = await asyncio.gather(*(call.reply for call in calls), return_exceptions=True)
    assert found[:2] == [b"OK", [b"OK", 17, b"", [None, []], b"a\r\n+b\r"]]
    assert isinstance(found[2], NoScriptError)
    assert found[3] is None
    assert isinstance(found[4], list)
    assert found[4][0] == 1
    assert isinstance(found[4][1], ResponseError)
    assert found[5] == -4


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"$-7\r\n", b"*-7\r\n", b":1x\r\n", b"-LOADING it is\r\n", b""],
    ids=["a stranger", "no length", "a length below nothing", "an array below nothing", "no number", "loading", "gone"],
)
async def test_what_no_reply_can_be_ends_the_connection_and_the_next_one_serves(said: bytes) -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await asked(reader)
        writer.write(said if connections == 1 else b"+OK\r\n")
        if not said and connections == 1:
            writer.close()

    async with laned(talk) as lane:
        with pytest.raises(Broken):
            await lane.submit(("PING",)).reply
        assert lane.trouble is not None
        assert await lane.submit(("PING",)).reply == b"OK"
        assert lane.trouble is None
    assert connections == 2


async def test_what_was_not_asked_for_ends_the_connection() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await asked(reader)
        writer.write(b"+OK\r\n+and\r\n" if connections == 1 else b"+other\r\n")

    async with laned(talk) as lane:
        assert await lane.submit(("PING",)).reply == b"OK"
        await asyncio.sleep(0.05)
        assert await lane.submit(("PING",)).reply == b"other"


async def test_a_lone_command_leaves_at_once_and_others_behind_it_in_order() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b":0\r\n")
        await asked(reader, 5)
        writer.write(b"".join(b":%d\r\n" % number for number in range(1, 6)))

    async with laned(talk) as lane:
        assert await lane.submit(("PING",)).reply == 0
        await asyncio.sleep(0)
        calls = [lane.submit(("PING",)) for _ in range(5)]
        assert [call.sent for call in calls] == [True] + [False] * 4
        assert [await call.reply for call in calls] == [1, 2, 3, 4, 5]


async def test_the_reply_to_a_cancelled_caller_goes_to_nobody_else() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b":0\r\n")
        await asked(reader)
        await asked(reader)
        writer.write(b":1\r\n:2\r\n")

    async with laned(talk) as lane:
        assert await lane.submit(("PING",)).reply == 0
        await asyncio.sleep(0)
        first = lane.submit(("PING",))
        assert first.sent
        first.reply.cancel()
        assert await lane.submit(("PING",)).reply == 2


async def test_closing_waits_for_a_lone_command_and_tells_one_that_takes_too_long() -> None:
    answer = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b":0\r\n")
        await asked(reader)
        await answer.wait()
        writer.write(b":1\r\n")

    async def direct(lane: Lane) -> Call:
        assert await lane.submit(("PING",)).reply == 0
        await asyncio.sleep(0)
        call = lane.submit(("PING",))
        assert call.sent
        return call

    async with laned(talk) as lane:
        call = await direct(lane)
        asyncio.get_running_loop().call_later(0.05, answer.set)
        await lane.close()
        assert call.reply.result() == 1
    answer.clear()
    async with laned(talk) as lane:
        call = await direct(lane)
        await lane.close(grace=0.05)
        with pytest.raises(Closed):
            call.reply.result()
        with pytest.raises(Closed):
            lane.submit(("PING",))
        answer.set()


async def test_a_connection_that_was_dropped_before_is_none() -> None:
    """`drop` of what a wire has taken over does nothing: the wire alone closes it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"+OK\r\n")

    async with laned(talk) as lane:
        link = await lane._connect()
        lane.adopt(link)
        await drop(link.connection)
        assert await lane.submit(("PING",)).reply == b"OK"
