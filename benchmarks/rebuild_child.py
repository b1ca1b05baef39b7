"""One measurement of `rebuild` in a process of its own: ``ours LOG_URL`` or ``theirs EVENTS_FILE``, pinned or free.

Prints one JSON object.  Theirs is fed JSON bytes that were built before the clock starts; ours starts with a closed
SQLite file and ends with a router that is ready.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pickle
import sys
import time
from pathlib import Path

TOPIC = "kv-events"


async def ours(url: str) -> dict[str, float]:
    import dynlog
    from dynlog.heap import settle_heap
    from dynlog.router.projection import RouterProjection

    importlib.import_module("dynlog.storage.sqlite_log")  # imports are no part of a rebuild, theirs are done as well
    replayer = dynlog.Replayer
    settle_heap()
    begun = time.perf_counter()
    async with dynlog.open_log(url) as log:
        rebuilt = await replayer(log, TOPIC, RouterProjection).rebuild()
        seconds = time.perf_counter() - begun
        await rebuilt.reader.close()
        return {"seconds": seconds, "blocks_held": rebuilt.state.index.blocks_held}


def theirs(path: str) -> dict[str, float]:
    from dynamo.llm import RadixTree

    events: list[tuple[int, bytes]] = pickle.loads(Path(path).read_bytes())
    tree = RadixTree()
    begun = time.perf_counter()
    for worker, event in events:
        tree.apply_event(worker, event)
    return {"seconds": time.perf_counter() - begun, "blocks_held": 0}


def main() -> None:
    kind, place, pinned = sys.argv[1:]
    if pinned == "pinned":
        os.sched_setaffinity(0, {0})
    print(json.dumps(asyncio.run(ours(place)) if kind == "ours" else theirs(place)))


if __name__ == "__main__":
    main()
