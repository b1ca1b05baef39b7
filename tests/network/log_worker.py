"""A server, or a caller, of the log call path in a process of its own, to be killed.

    python -m tests.network.log_worker serve URL NOTES [HALT]
    python -m tests.network.log_worker call URL

``serve`` notes each run of its handler as a line ``correlation attempt`` in NOTES: the outside effect.  With HALT it
stands still after that, before its reply, having written ``halted``.  ``call`` asks ``a``, ``b`` and ``c`` and says so.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from dynlog.network.calls import Call, Request
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services
from dynlog.open import open_log
from dynlog.record import Buffer, Record
from dynlog.timing import Deadline
from tests.network.call_backend import CALLER, SERVER
from tests.network.log_calls import NAME

EFFECTS = "effects"


async def serve(url: str, notes: Path, halt: str) -> None:
    async def work(request: Request) -> Buffer:
        assert isinstance(request, LogRequest)
        with notes.open("a") as file:
            file.write(f"{request.correlation_id} {request.attempt}\n")
        said = f"{request.correlation_id} in attempt {request.attempt}".encode()
        request.effects.append(EFFECTS, Record((said,), key=b"k"))
        if halt == request.correlation_id:
            print("halted", flush=True)
            time.sleep(3600)  # noqa: ASYNC251 the whole process is to stand still
        return said

    services = Services()
    services.add(SERVER, "work", work)
    async with open_log(url) as log, LogServer.open(log, NAME, services, [SERVER]):
        print("ready", flush=True)
        await asyncio.sleep(3600)


async def call(url: str) -> None:
    async with open_log(url) as log, LogCaller.open(log, NAME, CALLER) as caller, asyncio.TaskGroup() as calls:
        for name in ("a", "b", "c"):
            asked = Call(SERVER, "work", Deadline(120.0), CALLER, correlation_id=name)
            calls.create_task(caller.request(asked, b""))
        end = 0
        while end < 3:  # until all three lie in the log
            await asyncio.sleep(0.01)
            end = sum(state.end for state in await log.partitions(f"{NAME}.requests"))
        print("asked", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else ""))
    else:
        asyncio.run(call(sys.argv[2]))
