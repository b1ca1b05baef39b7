"""A router process that snapshots without pause, a line before each and one after, until it is killed."""

from __future__ import annotations

import asyncio
import sys

import dynlog
from dynlog.router.state import RouterState
from tests.router.fleet import TOPIC


async def main(folder: str) -> None:
    async with (
        dynlog.open_log(f"sqlite://{folder}/events.db") as log,
        dynlog.open_objects(f"file://{folder}/objects") as objects,
        RouterState.open(log, TOPIC, objects=objects) as router,
    ):
        await router.ready()
        while True:
            print("writing", flush=True)
            await router.snapshot()
            print("written", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
