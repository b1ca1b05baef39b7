"""A second process with the same log open, told what to do line by line.

Run as ``python -m tests.conformance.other_process URL``: each line of JSON on stdin is one operation, and one line of
JSON on stdout its outcome, with the monotonic time (the same clock in all processes of a machine) at which it was done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dynlog.errors import DynlogError
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import PATIENCE_S, records

ROOT = Path(__file__).resolve().parents[2]


class OtherProcess:
    """The handle of the test on the second process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Runs one operation over there and returns its outcome."""
        await self.start(operation, **arguments)
        return await self.outcome()

    async def start(self, operation: str, **arguments: Any) -> None:
        """Has one operation begun over there."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"operation": operation, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()

    async def outcome(self) -> dict[str, Any]:
        """The outcome of the operation that began first."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line, "the other process ended"
        outcome: dict[str, Any] = json.loads(line)
        return outcome


@asynccontextmanager
async def other_process(url: str) -> AsyncIterator[OtherProcess]:
    """Starts it, waits until it has the log open, and ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance.other_process", url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        other = OtherProcess(process)
        await other.outcome()
        yield other
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def perform(log: Log, operation: str, arguments: dict[str, Any]) -> Any:
    """One operation on the log; what comes back can be written as JSON."""
    match operation:
        case "append":
            appended = await log.append(arguments["topic"], arguments["partition"], records(*arguments["bodies"]))
            return list(appended.offsets)
        case "append_many":
            names = [f"{arguments['prefix']}{n}" for n in range(arguments["count"])]
            return [list((await log.append(arguments["topic"], 0, records(name, name))).offsets) for name in names]
        case "create_topic":
            return (await log.create_topic(arguments["topic"])).incarnation
        case "delete_topic":
            return await log.delete_topic(arguments["topic"])
        case "truncate":
            return (await log.truncate(arguments["topic"], 0, arguments["before"])).earliest
        case "register_producer":
            return await log.register_producer(arguments["producer"])
        case "open_generation":
            return await log.open_generation(arguments["group"], arguments["topic"])
        case _:
            raise ValueError(operation)


async def _serve(url: str) -> None:
    async with open_log(url) as log:
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            arguments = json.loads(line)
            try:
                value = await perform(log, arguments.pop("operation"), arguments)
                outcome = {"value": value, "at": time.monotonic()}
            except DynlogError as error:
                outcome = {"error": type(error).__name__, "at": time.monotonic()}
            print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
