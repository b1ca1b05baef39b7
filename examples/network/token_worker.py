"""A worker that streams tokens, a caller that has read enough, and the generation that stops because of it.

python examples/network/token_worker.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dynlog.entity import DynamoEntityID
from dynlog.network.calls import Request
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.registry import LocalRegistry

WORKER, FRONTEND = DynamoEntityID.from_name("fleet/backend/0"), DynamoEntityID.from_name("fleet/frontend/0")


class Engine:
    """What generates tokens; it counts what it made, and for whom it stopped."""

    def __init__(self) -> None:
        self.made = 0
        self.cancelled: list[str] = []
        self.stopped = asyncio.Event()

    async def generate(self, request: Request) -> AsyncIterator[bytes]:
        try:
            for number in range(1_000_000):
                self.made += 1
                yield f"{bytes(request.body).decode()}-{number}".encode()
                await asyncio.sleep(0.001)  # a step of the engine
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request.headers["tenant"])  # the caller left: the slot is free again
            self.stopped.set()
            raise


async def main() -> None:
    registry, engine = LocalRegistry(), Engine()
    async with (
        DynamoNetworkManager(WORKER, registry=registry, listen=["tcp://127.0.0.1:0"]) as worker,
        DynamoNetworkManager(FRONTEND, registry=registry) as frontend,
    ):
        worker.serve("generate", engine.generate)
        async with frontend.stream(WORKER, "generate", "token", headers={"tenant": "acme"}) as tokens:
            async for token in tokens:
                print(bytes(token).decode())
                if token == b"token-4":
                    break  # leaving the block cancels the handler
        await engine.stopped.wait()
        print(f"the engine stopped for {engine.cancelled[0]} after {'few' if engine.made < 1000 else 'many'} tokens")


if __name__ == "__main__":
    asyncio.run(main())
