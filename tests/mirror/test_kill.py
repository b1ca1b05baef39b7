"""SIGKILL of both mirrors at random moments, with producers on both sides: the oracle knows what each of them sent."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from dynlog.log import Log
from dynlog.open import open_log
from tests.mirror.sides import PATIENCE_S, OldSide, append, bodies
from tests.rounds import rounds

PAUSE_S = 0.01


class Sent:
    """What a producer sent and was told to be stored, in order."""

    def __init__(self, word: str) -> None:
        self.word, self.stored, self._stop = word, 0, asyncio.Event()

    async def produce(self, old: OldSide | None, log: Log | None) -> None:
        """Numbered bodies, one after the other, until it is stopped."""
        while not self._stop.is_set():
            body = f"{self.word} {self.stored}".encode()
            if old is not None:
                await old.publish("old", body)
            if log is not None:
                await append(log, "t", body)
            self.stored += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PAUSE_S)

    def stop(self) -> None:
        """It ends after what it is at."""
        self._stop.set()

    def check(self, side: list[bytes]) -> None:
        """All that was sent is on that side, once and in order."""
        mine = [body for body in side if body.startswith(self.word.encode())]
        assert mine == [f"{self.word} {number}".encode() for number in range(self.stored)]


@asynccontextmanager
async def mirror(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A mirror in a process of its own, which is killed with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynlog.cli", "mirror", "nats", "--every", "20ms", "--json", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def at_work(process: asyncio.subprocess.Process) -> None:
    """Returns once the mirror said for the first time how far it is."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline(), "it ended by itself"


@pytest.mark.dynlog_engines("sqlite", "kafka")
async def test_a_mirror_killed_anywhere_loses_nothing_doubles_nothing_and_keeps_the_order(
    old: OldSide, dynlog_log_url: str, dice: random.Random
) -> None:
    common = ("--nats", old.url, "--log", dynlog_log_url, "--topic", "t")
    inward = ("--direction", "in", "--stream", old.name, *common)
    outward = ("--direction", "out", "--subject", f"{old.name}.new", *common)
    theirs, ours = Sent("old"), Sent("new")
    async with open_log(dynlog_log_url) as log:
        await log.create_topic("t")
        async with asyncio.TaskGroup() as group:
            group.create_task(theirs.produce(old, None))
            group.create_task(ours.produce(None, log))
            for _ in range(rounds(5)):
                async with mirror(*inward) as one, mirror(*outward) as other:
                    await asyncio.gather(at_work(one), at_work(other))
                    await asyncio.sleep(dice.uniform(0, 0.3))
                    dice.choice((one, other)).kill()
                    await asyncio.sleep(dice.uniform(0, 0.1))
            theirs.stop()
            ours.stop()
        async with mirror(*inward, "--once") as one, mirror(*outward, "--once") as other:
            for last in (one, other):
                await asyncio.wait_for(last.communicate(), PATIENCE_S)
            assert one.returncode == other.returncode == 0
        for side in (await bodies(log, "t"), await old.bodies()):
            theirs.check(side)
            ours.check(side)
            assert len(side) == theirs.stored + ours.stored
