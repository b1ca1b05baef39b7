"""Our end of the network benchmark: an instance in a process of its own, and the caller of it; wires alone, no log.

``python -m benchmarks.network_ours ADDRESS`` serves until standard input closes and says its address in one line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.network_peers import other_process, stdin_closed
from dynlog.entity import DynamoEntityID
from dynlog.network.calls import Request
from dynlog.network.events import Event
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.locating import this_host
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.registry import LocalRegistry
from dynlog.record import Buffer

SERVER, CALLER = DynamoEntityID.from_name("server"), DynamoEntityID.from_name("caller")
TOKENS = 400


@asynccontextmanager
async def serve(address: str) -> AsyncIterator[DynamoNetworkManager]:
    """Answers ``echo`` with what it is sent, ``tokens`` with 400 of them, ``heard`` with how many events came."""
    heard = 0

    async def echo(request: Request) -> Buffer:
        return request.body

    async def tokens(request: Request) -> AsyncIterator[Buffer]:
        for number in range(TOKENS):
            yield b"token %d" % number
            await asyncio.sleep(0)  # as an engine does: one token of each stream per step

    async def on_event(event: Event) -> None:
        nonlocal heard
        heard += 1

    async def count(request: Request) -> Buffer:
        return b"%d" % heard

    async with DynamoNetworkManager(SERVER, registry=LocalRegistry(), listen=[address]) as manager:
        for topic, handler in (("echo", echo), ("tokens", tokens), ("heard", count)):
            manager.serve(topic, handler)
        for _ in range(8):
            await manager.subscribe(SERVER, "news", on_event)
        yield manager


@asynccontextmanager
async def caller(address: str) -> AsyncIterator[tuple[DynamoNetworkManager, str]]:
    """A manager that knows a server in another process, and the server's address."""
    async with other_process("benchmarks.network_ours", address) as place:
        registry = LocalRegistry()
        await registry.join(
            Member(SERVER, addresses=(place,), host=this_host(), interests=frozenset({Interest(SERVER, "news")}))
        )
        async with DynamoNetworkManager(CALLER, registry=registry) as manager:
            yield manager, place


async def _main(address: str) -> None:
    async with serve(address) as manager:
        print(manager.addresses[0], flush=True)
        await stdin_closed()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
