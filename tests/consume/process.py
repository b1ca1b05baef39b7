"""A `tests.consume.worker` that runs, tells what it does, and is killed; and what its notes say."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conformance.backend import PATIENCE_S
from tests.conformance.other_process import ROOT


class Note(NamedTuple):
    """One handled record."""

    time: float
    partition: int
    offset: int
    body: str


def read_notes(path: Path) -> list[Note]:
    """What was noted so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split() for line in lines]
    return [Note(float(row[0]), int(row[1]), int(row[2]), row[3]) for row in rows if len(row) == 4]


class Worker:
    """The process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self, word: str) -> None:
        """Waits for that line on its stdout."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line.decode().strip() == word, f"{line!r} instead of {word!r}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it, and to nobody else."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def worker(*arguments: str) -> AsyncIterator[Worker]:
    """Starts one, waits until it is a member, and ends it whatever happens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.consume.worker", *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        running = Worker(process)
        await running.says("ready")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
