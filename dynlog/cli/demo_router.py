"""The router process of the demo: follows the topic, snapshots, and says on standard output how it stands.

One JSON object a line: ``{"ready": ...}`` once, then ``{"records": ..., "snapshots": ...}`` as it goes on.  A line
``dump PATH`` on standard input makes it catch up with the log's end, write its dump there and end.  ``{"failed": ...}``
is its last line where it cannot go on.  The URLs come by the environment: what is on a command line anybody can see.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path

from dynlog.errors import DynlogError
from dynlog.heap import settle_heap
from dynlog.open import open_log, open_objects
from dynlog.router.state import RouterState
from dynlog.snapshots import SnapshotPolicy

LOG_VARIABLE, OBJECTS_VARIABLE = "DYNLOG_DEMO_LOG", "DYNLOG_DEMO_OBJECTS"
SNAPSHOT_EVERY = 1500
TICK_S = 0.02


def say(**facts: object) -> None:
    """One line of facts for the parent."""
    print(json.dumps(facts), flush=True)


async def main(log_url: str, objects_url: str, topic: str) -> None:
    settle_heap()
    policy = SnapshotPolicy(every_records=SNAPSHOT_EVERY)
    loop = asyncio.get_running_loop()
    order = loop.run_in_executor(None, sys.stdin.readline)
    async with (
        open_log(log_url) as log,
        open_objects(objects_url) as objects,
        RouterState.open(log, topic, objects=objects, policy=policy) as router,
    ):
        await router.ready()
        report = router.status().rebuild
        assert report is not None
        say(ready=dataclasses.asdict(report), blocks=router.index.blocks_held)
        while not order.done():
            await asyncio.wait([order], timeout=TICK_S)
            say(records=router.status().records, snapshots=router.status().snapshots)
        await router.caught_up()
        command, _, path = (await order).strip().partition(" ")
        if command == "dump":
            Path(path).write_text(json.dumps(list(router.dump())))  # noqa: ASYNC240 (the demo's last act)
            say(dumped=path)


if __name__ == "__main__":
    try:
        asyncio.run(main(os.environ[LOG_VARIABLE], os.environ[OBJECTS_VARIABLE], sys.argv[1]))
    except DynlogError as failure:
        say(failed=str(failure))
