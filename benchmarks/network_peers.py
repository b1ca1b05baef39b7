"""The peers of the network benchmark, each an echo in a process of its own: raw asyncio streams, nats-py, grpc.aio.

Each is used as its documentation shows.  A peer's server runs until its standard input closes, and says its address in
one line: ``python -m benchmarks.network_peers raw|nats|grpc [ADDRESS]``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import nats

Call = Callable[[bytes], Awaitable[bytes]]
SUBJECT = "bench.echo"
METHOD = "/bench.Echo/Call"


@asynccontextmanager
async def serve_raw(_: str) -> AsyncIterator[str]:
    """Whatever comes goes back: the floor under any request and reply on asyncio's streams."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def call_raw(address: str) -> AsyncIterator[Call]:
    """One call at a time: write, and read as many bytes."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))

    async def call(body: bytes) -> bytes:
        writer.write(body)
        await writer.drain()
        return await reader.readexactly(len(body))

    try:
        yield call
    finally:
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serve_nats(url: str) -> AsyncIterator[str]:
    """A responder on one subject."""
    client = await nats.connect(url)

    async def answer(message: Any) -> None:
        await message.respond(message.data)

    await client.subscribe(SUBJECT, cb=answer)
    await client.flush()
    try:
        yield url
    finally:
        await client.close()


@asynccontextmanager
async def serve_nats_events(url: str) -> AsyncIterator[str]:
    """Eight subscriptions that count, each on a connection of its own, and who tells how many came."""
    heard = 0
    clients = [await nats.connect(url) for _ in range(9)]

    async def came(message: Any) -> None:
        nonlocal heard
        heard += 1

    async def tell(message: Any) -> None:
        await message.respond(b"%d" % heard)

    for client in clients[1:]:
        await client.subscribe("bench.news", cb=came)
        await client.flush()
    await clients[0].subscribe("bench.heard", cb=tell)
    await clients[0].flush()
    try:
        yield url
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def call_nats(url: str) -> AsyncIterator[Call]:
    """nats-py's request."""
    client = await nats.connect(url)

    async def call(body: bytes) -> bytes:
        return bytes((await client.request(SUBJECT, body, timeout=30)).data)

    try:
        yield call
    finally:
        await client.close()


@asynccontextmanager
async def serve_grpc(_: str) -> AsyncIterator[str]:
    """A unary method over bytes, without protobuf."""

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {METHOD.rsplit("/", 1)[1]: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD.split("/")[1], handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def call_grpc(address: str) -> AsyncIterator[Call]:
    """grpc.aio's unary call."""
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(METHOD)

        async def call(body: bytes) -> bytes:
            return bytes(await method(body, timeout=30))

        yield call


SERVERS = {"raw": serve_raw, "nats": serve_nats, "nats-events": serve_nats_events, "grpc": serve_grpc}
CLIENTS = {"raw": call_raw, "nats": call_nats, "grpc": call_grpc}


@asynccontextmanager
async def other_process(module: str, *arguments: str) -> AsyncIterator[str]:
    """``python -m module arguments`` until the end of the block; gives the first line that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            place = (await process.stdout.readline()).decode().strip()
        yield place
    finally:
        process.stdin.close()
        await process.wait()


async def stdin_closed() -> None:
    """Returns once nobody holds the other end of standard input."""
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _serve(kind: str, address: str) -> None:
    async with SERVERS[kind](address) as place:
        print(place, flush=True)
        await stdin_closed()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
