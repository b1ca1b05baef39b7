"""Instances that are killed or stopped: everybody sees them gone in time, and who comes back late is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dynlog.discovery.directory import Joined, Left, Seen
from dynlog.kv import Ready
from dynlog.log import Log
from tests.conformance.other_process import ROOT
from tests.discovery.backend import PATIENCE_S, name, opened

TTL_S = 2.0
MOST_S = TTL_S + 2.0
"""After so long everybody knows."""


class Worker:
    """`tests.discovery.worker`, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def start(cls, url: str, address: str) -> AsyncIterator[Worker]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.discovery.worker", url, str(TTL_S), address,
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def says(self) -> list[str]:
        """The words of its next line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self._process.stdout.readline()).decode().split()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


async def next_of(watch: AsyncIterator[Seen], kind: type[Seen] | None = None) -> Seen:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            event = await anext(watch)
            if kind is None or isinstance(event, kind):
                return event


@pytest.mark.dynlog_engines("sqlite", "redis", "kafka")
async def test_an_instance_that_is_killed_is_gone_for_all_who_watch_within_its_ttl_and_two_seconds(
    dynlog_log: Log, dynlog_log_url: str
) -> None:
    async with opened(dynlog_log) as one, opened(dynlog_log) as two, one.watch() as first, two.watch() as second:
        watches = [aiter(first), aiter(second)]
        async with Worker.start(dynlog_log_url, "10.0.0.7:1") as worker:
            assert (await worker.says())[0] == "registered"
            for watch in watches:
                assert isinstance(await next_of(watch, Joined), Joined)
            worker.signal(signal.SIGKILL)
            killed = time.monotonic()
            for watch in watches:
                left = await next_of(watch, Left)
                assert isinstance(left, Left)
                assert (left.name, left.lease_ended) == (name(), True)
            assert time.monotonic() - killed < MOST_S


@pytest.mark.dynlog_engines("sqlite", "redis", "kafka")
async def test_an_instance_that_was_stopped_past_its_ttl_is_told_so_and_takes_nothing_from_who_replaced_it(
    dynlog_log: Log, dynlog_log_url: str
) -> None:
    async with opened(dynlog_log) as there, there.watch() as watch:
        seen = aiter(watch)
        assert isinstance(await next_of(seen), Ready)
        async with Worker.start(dynlog_log_url, "old:1") as old:
            assert (await old.says())[0] == "registered"
            old.signal(signal.SIGSTOP)
            left = await next_of(seen, Left)
            assert isinstance(left, Left)
            assert left.lease_ended
            async with Worker.start(dynlog_log_url, "new:1") as new:
                token = int((await new.says())[1])
                assert isinstance(await next_of(seen, Joined), Joined)
                old.signal(signal.SIGCONT)
                assert await old.says() in (["over", "LeaseLost"], ["over", "EntityFenced"])
                assert await old.says() == [], "it ended"
                found = await there.get(name(), linearizable=True)
                assert found is not None
                assert (found.entity.reached_at, found.entity.incarnation) == ({"tcp": "new:1"}, token)


@pytest.mark.dynlog_engines("sqlite", "redis", "kafka")
async def test_an_instance_that_is_started_again_fences_its_old_self_that_still_lives(
    dynlog_log: Log, dynlog_log_url: str
) -> None:
    async with opened(dynlog_log) as there, Worker.start(dynlog_log_url, "old:1") as old:
        first = int((await old.says())[1])
        async with Worker.start(dynlog_log_url, "new:1") as new:
            second = int((await new.says())[1])
            assert second > first
            assert await old.says() == ["over", "EntityFenced"]
            assert await old.says() == [], "it ended"
            found = await there.get(name(), linearizable=True)
            assert found is not None
            assert found.entity.incarnation == second
