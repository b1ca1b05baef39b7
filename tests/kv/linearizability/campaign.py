"""Clients in processes of their own, struck at while they work; in the end every history must be linearizable."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from dynlog.kv import open_kv
from dynlog.open import open_log
from tests.conformance.other_process import ROOT
from tests.kv.linearizability.checker import check
from tests.kv.linearizability.history import Operation, Outcome, Recorder, by_key, read_history
from tests.kv.linearizability.working import read_finally

BUCKET = "contended"
CLIENTS = 3
TASKS = 3
PATIENCE_S = 90.0


class Process:
    """One client, running."""

    def __init__(self, process: asyncio.subprocess.Process, answered: Callable[[int], None]) -> None:
        self.process = process
        self._works = asyncio.Event()
        self._counting = asyncio.create_task(self._count(answered))

    async def _count(self, answered: Callable[[int], None]) -> None:
        assert self.process.stdout is not None
        while dots := await self.process.stdout.read(4096):
            answered(len(dots))
            self._works.set()
        self._works.set()

    async def works(self) -> None:
        """Waits until it has opened the bucket: that somebody finds no server at the start is no finding."""
        async with asyncio.timeout(PATIENCE_S):
            await self._works.wait()

    async def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.process.kill()
        await self.process.wait()
        await self._counting

    async def end(self) -> None:
        """Lets it finish what it is at; it must end well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await self.process.wait() == 0, "a client failed; what it wrote to stderr stands above"
        await self._counting


class Campaign:
    """The clients and what they write down; `running` makes one."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url, self.folder, self.seed = url, folder, seed
        self.clients: list[Process] = []
        self.answered = 0
        self._news = asyncio.Event()
        self._started = 0

    async def start_client(self) -> None:
        """One more client, at work."""
        self._started += 1
        arguments = [self.url, BUCKET, self.folder / f"{self._started}.history", f"c{self._started}"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.kv.linearizability.client",
            *map(str, arguments), str(self.seed + self._started), str(TASKS),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        self.clients.append(Process(process, self._count))
        await self.clients[-1].works()

    async def replace_client(self, dice: random.Random) -> None:
        """SIGKILL for one client in the middle of what it does, and another one in its place."""
        victim = self.clients.pop(dice.randrange(len(self.clients)))
        await victim.kill()
        await self.start_client()

    async def more(self, count: int) -> None:
        """Waits until so many more operations were answered."""
        wanted = self.answered + count
        async with asyncio.timeout(PATIENCE_S):
            while self.answered < wanted:
                self._news.clear()
                await self._news.wait()

    def _count(self, answered: int) -> None:
        self.answered += answered
        self._news.set()

    def histories(self) -> list[Operation]:
        """What every client wrote down."""
        files = sorted(self.folder.glob("*.history"))
        return [operation for file in files for operation in read_history(file)]


@asynccontextmanager
async def running(url: str, folder: Path, seed: int) -> AsyncIterator[Campaign]:
    """Clients at work; none is left whatever happens."""
    async with open_log(url) as log, open_kv(log) as kv:
        await kv.create(BUCKET)
    campaign = Campaign(url, folder, seed)
    try:
        for _ in range(CLIENTS):
            await campaign.start_client()
        yield campaign
        for client in campaign.clients:
            await client.end()
    finally:
        for client in campaign.clients:
            if client.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    await client.kill()


async def _compact(url: str) -> None:
    async with open_log(url) as log, open_kv(log, compaction=None) as kv:
        done = await (await kv.bucket(BUCKET)).compact(timeout=PATIENCE_S)
    assert done.pictures > 0


async def judged(
    url: str, direct: str, folder: Path, seed: int, strikes: int, strike: Callable[[Campaign], Awaitable[None]]
) -> list[Operation]:
    """Clients work on ``url`` and are struck at so often; then everything is read once more through ``direct``, and the
    whole must be linearizable.  Now and then the bucket is compacted under the clients' hands."""
    dice = random.Random(seed)
    async with running(url, folder, seed) as campaign:
        for number in range(strikes):
            await campaign.more(dice.randrange(100, 400))
            await strike(campaign)
            if number % 2 == 0:
                await _compact(direct)
        await campaign.more(200)
    keys = sorted(by_key(campaign.histories()))
    with Recorder(folder / "finally.history") as recorder:
        async with open_log(direct) as log, open_kv(log) as kv:
            await read_finally(await kv.bucket(BUCKET), recorder, keys)
    operations = campaign.histories()
    told = {outcome.value: sum(o.outcome is outcome for o in operations) for outcome in Outcome}
    print(f"{len(operations)} operations on {len(keys)} keys, {strikes} strikes: {told}")
    anomalies = check(operations)
    assert not anomalies, "\n".join(map(str, anomalies[:3]))
    assert told["ok"] > 100, "too little was done to prove anything"
    return operations
