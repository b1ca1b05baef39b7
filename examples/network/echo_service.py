"""An echo service and its caller, over models, on a wire that is switched under them.  No log: nothing to set up.

python examples/network/echo_service.py
"""

from __future__ import annotations

import asyncio
import tempfile

from pydantic import BaseModel

from dynlog.entity import DynamoEntityID
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.messages import of_model
from dynlog.network.registry import LocalRegistry


class Ping(BaseModel):
    number: int


class Pong(BaseModel):
    number: int
    doubled: int


async def double(ping: Ping) -> Pong:
    return Pong(number=ping.number, doubled=2 * ping.number)


async def main() -> None:
    registry = LocalRegistry()  # who is there; a fleet's is a bucket of its log (dynlog.network.joining)
    service, caller = DynamoEntityID.from_name("echo/0"), DynamoEntityID.from_name("caller/0")
    listen = [f"uds://{tempfile.mkdtemp()}/echo", "tcp://127.0.0.1:0"]
    async with (
        DynamoNetworkManager(service, registry=registry, listen=listen) as server,
        DynamoNetworkManager(caller, registry=registry) as client,
    ):
        server.serve("double", of_model(Ping, double))
        for wire in ("uds", "tcp", "uds"):
            await client.switch(service, wire)
            pongs = await asyncio.gather(
                *(client.ask(service, "double", Ping(number=number), Pong) for number in range(100))
            )
            print(f"over {wire}: {sum(pong.doubled for pong in pongs)}")
        print(client.stats()["sessions"][0])


if __name__ == "__main__":
    asyncio.run(main())
