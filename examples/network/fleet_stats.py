"""Stats of a collection: every instance answers once, and whoever does not is named with the reason.

python examples/network/fleet_stats.py
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack

import dynlog
from dynlog.entity import DynamoEntityID
from dynlog.network.calls import Request
from dynlog.network.joining import join_network

BACKEND, FLEET = DynamoEntityID.collection("fleet/backend"), DynamoEntityID.collection("fleet")


async def main() -> None:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(dynlog.open_log(f"sqlite://{tempfile.mkdtemp()}/fleet.db"))
        for number in range(4):
            entity = DynamoEntityID.from_name(f"fleet/backend/{number}")
            worker = await stack.enter_async_context(
                join_network(log, entity, listen=["tcp://127.0.0.1:0"], parents=[BACKEND])
            )

            async def stats(request: Request, number: int = number) -> bytes:
                if number == 3:
                    await asyncio.sleep(60)  # a worker that hangs
                return json.dumps({"free_blocks": 100 * number}).encode()

            worker.serve("stats", stats)
        operator = await stack.enter_async_context(join_network(log, DynamoEntityID.from_name("operator")))
        gathered = await operator.broadcast(FLEET, "stats", deadline=1.0)
        for entity, reply in sorted(gathered.replies.items(), key=lambda item: str(item[0])):
            print(entity.name, json.loads(bytes(reply)))
        for entity, error in gathered.missing.items():
            print(entity.name, "is missing:", type(error).__name__)


if __name__ == "__main__":
    asyncio.run(main())
