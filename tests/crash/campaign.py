"""Kills writers at random moments and compares the log with what was acknowledged; used by the test and the soak.

The oracle stands outside of the processes that die: it learns of an acknowledgement through a pipe, which keeps what a
killed writer had written into it.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dynlog.open import open_log
from tests.crash.oracle import Acknowledged, LogChecker, Violation
from tests.crash.writer import TOPIC

ROOT = Path(__file__).resolve().parents[2]
WRITERS = 3
PARTITIONS = 2
MOST_NEW = 400
"""A round kills after at most this many new acknowledgements."""
WHOLE_EVERY = 10
"""Every so many rounds the whole log is read again and verified, else what is new."""
PATIENCE_S = 60.0


class Writer:
    """A name that lives on through processes that die."""

    def __init__(self, name: str, url: str, seed: int, acknowledged: Acknowledged) -> None:
        self.name = name
        self._url, self._seed, self._acknowledged = url, seed, acknowledged
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """A new process that goes on behind what was acknowledged."""
        firsts = [str(self._acknowledged.first_unknown(self.name, partition)) for partition in range(PARTITIONS)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.crash.writer", self._url, self.name, str(self._seed), *firsts,
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        self._listening = asyncio.create_task(self._listen(self._process))

    async def kill(self) -> None:
        """SIGKILL; returns when the process is gone and all it had reported was taken in."""
        if self._process is None or self._listening is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        status = await self._process.wait()
        await self._listening
        self._process = self._listening = None
        if status != -signal.SIGKILL:
            raise Violation(f"{self.name} ended by itself with status {status}")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._acknowledged.report(self.name, line)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a campaign did; seconds are the longest."""

    rounds: int
    kills: int
    acknowledged: int
    stored: int
    slowest_open_s: float
    seconds: float


async def run_campaign(folder: Path, rounds: int, seed: int) -> Outcome:
    """That many rounds on one new log; raises Violation."""
    started = time.monotonic()
    choose = random.Random(seed)
    url = f"sqlite://{folder / 'events.db'}"
    async with open_log(url) as log:
        await log.create_topic(TOPIC, partitions=PARTITIONS)
    acknowledged = Acknowledged()
    checker = LogChecker(url, PARTITIONS, acknowledged)
    kills = stored = 0
    try:
        async with _writers(url, seed, acknowledged) as writers:
            for number in range(rounds):
                async with asyncio.timeout(PATIENCE_S):
                    await acknowledged.reaches(acknowledged.count + choose.randint(1, MOST_NEW))
                    await asyncio.sleep(choose.random() * 0.02)
                    doomed = (
                        writers if choose.random() < 0.3 else choose.sample(writers, choose.randint(1, WRITERS - 1))
                    )
                    await asyncio.gather(*(writer.kill() for writer in doomed))
                    kills += len(doomed)
                    whole = number % WHOLE_EVERY == WHOLE_EVERY - 1
                    stored = await (checker.check_whole() if whole else checker.check_news())
                    await asyncio.gather(*(writer.start() for writer in doomed))
            await asyncio.gather(*(writer.kill() for writer in writers))
            stored = await checker.check_whole()
    except (Violation, TimeoutError) as error:
        raise Violation(f"seed {seed}, {kills} kills, {acknowledged.count} acknowledged: {error!r}") from error
    return Outcome(rounds, kills, acknowledged.count, stored, checker.slowest_open_s, time.monotonic() - started)


@asynccontextmanager
async def _writers(url: str, seed: int, acknowledged: Acknowledged) -> AsyncIterator[list[Writer]]:
    writers = [Writer(f"writer{number}", url, seed, acknowledged) for number in range(WRITERS)]
    try:
        await asyncio.gather(*(writer.start() for writer in writers))
        yield writers
    finally:
        await asyncio.gather(*(writer.kill() for writer in writers), return_exceptions=True)
