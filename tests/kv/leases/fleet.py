"""Contenders in processes of their own, and the judgement over what they did: by the log, and by what they believed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, TypeVar

from dynlog.errors import DynlogError
from dynlog.kv import Bucket, KvFold, Verdict, open_kv
from dynlog.kv.line import in_line
from dynlog.kv.records import Expire, Fact, Put, from_parts
from dynlog.kv.settings import topic_of
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import stored
from tests.conformance.other_process import ROOT
from tests.kv.leases.contender import LOCK, STATE

BUCKET = "contended"
TTL_S = 1.5
SLACK_S = 2.0
"""An expiry is seen by all within TTL + this; a test fails at ten times that, for a machine may be busy."""
PATIENCE_S = 60.0
Event = dict[str, Any]
T = TypeVar("T")


class Contender:
    """One process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, fleet: Fleet) -> None:
        self.name, self.process = name, process
        self.events: list[Event] = []
        self._fleet = fleet
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            event: Event = json.loads(line)
            self.events.append(event)
            self._fleet.happened(self, event)

    def told(self, what: str, **facts: Any) -> Event | None:
        """The first such event."""
        wanted = {"event": what, **facts}.items()
        return next((event for event in self.events if wanted <= event.items()), None)

    def stop(self) -> None:
        """SIGSTOP; it is stopped once this returns."""
        os.kill(self.process.pid, signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def end(self) -> None:
        """Lets it finish; it must end well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await self.process.wait() == 0, f"{self.name} failed; what it wrote to stderr stands above"
        await self._reading


class Fleet:
    """The contenders; `running` makes one."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.contenders: list[Contender] = []
        self.gone: list[Contender] = []
        self.holder: tuple[Contender, Event] | None = None
        """Who acquired the lock last, and how it said so."""
        self._news = asyncio.Event()

    async def start(self, url: str) -> Contender:
        """One more."""
        name = f"c{len(self.contenders) + len(self.gone)}"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.kv.leases.contender", url, BUCKET, name, str(TTL_S),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        contender = Contender(name, process, self)
        self.contenders.append(contender)
        await self.until(lambda: contender.told("granted"), f"{name} has a lease")
        return contender

    async def kill(self, contender: Contender) -> None:
        """SIGKILL."""
        await contender.kill()
        self.contenders.remove(contender)
        self.gone.append(contender)

    def happened(self, contender: Contender, event: Event) -> None:
        """A contender said something."""
        if event["event"] == "acquired" and (self.holder is None or event["token"] > self.holder[1]["token"]):
            self.holder = (contender, event)
        self._news.set()

    async def until(self, condition: Callable[[], T | None], what: str) -> T:
        """Waits until it is so, asking whenever somebody said something."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (found := condition()):
                    self._news.clear()
                    await self._news.wait()
                return found
        except TimeoutError:
            said = {each.name: each.events[-5:] for each in self.contenders + self.gone}
            raise AssertionError(f"after {PATIENCE_S} s still not: {what}; {said}") from None

    async def somebody_holds(self, beyond: int = -1) -> tuple[Contender, Event]:
        """Who acquired the lock with a token above that."""
        await self.until(lambda: self.holder is not None and self.holder[1]["token"] > beyond, f"a token over {beyond}")
        assert self.holder is not None
        return self.holder

    async def all_saw_the_end(self, lease: str, since: float, but: Contender | None = None) -> float:
        """Seconds after which all others, and this process, knew that the lease is gone."""
        others = [each for each in self.contenders if each is not but]
        await self.until(lambda: all(each.told("ended", lease=lease) for each in others), f"{lease} ended for all")
        while lease in self.bucket.leases:
            await self.bucket.follower.changes.beyond(self.bucket.follower.changes.count)
        told = [each.told("ended", lease=lease) for each in others]
        took: float = max(event["at"] for event in told if event is not None) - since
        print(f"seen by all {len(others)} others {took:.2f} s after, TTL {TTL_S} s")
        assert took < TTL_S + 10 * SLACK_S
        return took

    def nobody_believed_too_long(self) -> None:
        """By the clock: whoever held the lock had stopped before the next one had it."""
        events = [event for each in self.contenders + self.gone for event in each.events]
        acquired = sorted((e["token"], e["held_at"]) for e in events if e["event"] == "acquired")
        last_held = {e["token"]: e["held_at"] for e in events if e["event"] == "stopped"}
        for (token, _), (following, at) in pairwise(acquired):
            assert last_held.get(token, 0.0) < at, f"{token} believed to hold the lock when {following} had it already"


@asynccontextmanager
async def running(log: Log, urls: list[str]) -> AsyncIterator[Fleet]:
    """Contenders at work, one for each URL, in that order; in the end what they did is judged."""
    async with open_kv(log, compaction=None) as kv:
        fleet = Fleet(await kv.create(BUCKET))
        try:
            for url in urls:
                await fleet.start(url)
            yield fleet
            for contender in fleet.contenders:
                await contender.end()
        finally:
            for contender in fleet.contenders:
                if contender.process.returncode is None:
                    await contender.kill()
        fleet.nobody_believed_too_long()
        counted = await judge(log)
        print(f"{counted} writes counted, each by whoever was first in line at its place in the log")
        assert counted > 10, "too little was done to prove anything"


async def _facts(log: Log) -> AsyncIterator[tuple[int, Fact, Verdict, KvFold]]:
    fold = KvFold()
    for found in await stored(log, topic_of(BUCKET)):
        parts = [bytes(part) for part in found.record.parts]
        outcome = fold.take(found.offset, found.log_time_ms, found.record.key, parts)
        yield found.offset, from_parts(found.record.key, parts), outcome.verdict, fold


async def judge(log: Log) -> int:
    """By the log: every write that counted came from whoever was first in line; returns how many there were."""
    counted = 0
    async for offset, fact, verdict, fold in _facts(log):
        if isinstance(fact, Put) and fact.key == STATE and verdict is Verdict.WON:
            token = int(fact.value.split()[0])
            first = min(row.created for key in fold.known(LOCK) if in_line(key, LOCK) and (row := fold.get(key)))
            assert token == first, f"offset {offset}: {fact.value!r} counted while {first} held the lock"
            counted += 1
    return counted


async def expired(log: Log, lease: str) -> int:
    """How many expiries of the lease counted."""
    said = [verdict async for _, fact, verdict, _ in _facts(log) if isinstance(fact, Expire) and fact.lease == lease]
    return said.count(Verdict.WON)


@asynccontextmanager
async def directly(url: str) -> AsyncIterator[Log]:
    """The log as the test has it."""
    async with open_log(url) as log:
        yield log


async def writable(log: Log) -> bool:
    """Whether anybody can write now: a process that is stopped in a transaction of SQLite, or while it rings the bell,
    holds everybody up.  (A put that is read in the log is known before it is acknowledged.)"""
    try:
        await log.register_producer("probe", timeout=0.5)
    except DynlogError:
        return False
    return True


async def beats(bucket: Bucket, lease: str) -> None:
    """Returns once a further heartbeat of the lease came, or its end."""
    before = bucket.leases.get(lease)
    async with asyncio.timeout(PATIENCE_S):
        while (found := bucket.leases.get(lease)) is not None and (before is None or found.beat == before.beat):
            await bucket.follower.changes.beyond(bucket.follower.changes.count)


def now() -> float:
    """The clock that all processes share."""
    return time.monotonic()
