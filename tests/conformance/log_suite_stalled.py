"""A store that does not answer: every call ends in its time, can be cancelled, and close() returns."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager

import pytest

from dynlog.errors import Closed, DeadlineExceeded, LogUnavailable, OutcomeUnknown
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import TOPIC, LogBackend, after_turns, bodies, fill, marked, records


class StalledSuite(LogBackend):
    """For engines whose store can be stalled from outside; a subclass says how."""

    def stalled(self, url: str) -> AbstractContextManager[None]:
        """While it lasts, no write to the log of that URL can finish."""
        raise NotImplementedError

    async def test_an_append_to_a_stalled_store_ends_in_its_time_and_may_be_repeated(
        self, log: Log, log_url: str
    ) -> None:
        await fill(log, 1)
        again = marked("p", 1, 0, "a", "b")
        with self.stalled(log_url):
            started = time.monotonic()
            with pytest.raises((DeadlineExceeded, OutcomeUnknown)):
                await log.append(TOPIC, 0, again, timeout=0.3)
            assert 0.2 < time.monotonic() - started < 2
        await log.append(TOPIC, 0, again)
        assert await bodies(log) == ["r0", "a", "b"]

    async def test_an_append_goes_on_when_the_stall_is_over_in_time(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        with self.stalled(log_url):
            append = asyncio.create_task(log.append(TOPIC, 0, records("a")))
            await asyncio.sleep(0.1)
            assert not append.done()
        assert (await append).offsets == (1,)

    async def test_an_append_to_a_stalled_store_can_be_cancelled_at_once(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        again = marked("p", 1, 0, "a", "b")
        with self.stalled(log_url):
            for turns in range(6):
                append = asyncio.create_task(log.append(TOPIC, 0, again))
                await after_turns(turns)
                append.cancel()
                done, _ = await asyncio.wait([append], timeout=1)
                assert done, "a cancelled append waits for the store"
        await log.append(TOPIC, 0, again)
        assert await bodies(log) == ["r0", "a", "b"]

    async def test_close_returns_although_the_store_is_stalled(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with open_log(log_url) as other:
            with self.stalled(log_url):
                append = asyncio.create_task(other.append(TOPIC, 0, records("a"), timeout=60))
                await after_turns(5)
                started = time.monotonic()
                await other.close()
                assert time.monotonic() - started < 20
                async with asyncio.timeout(5):
                    with pytest.raises((Closed, DeadlineExceeded, OutcomeUnknown, LogUnavailable)):
                        await append
        await log.append(TOPIC, 0, records("the log is usable"))
        assert (await bodies(log))[-1] == "the log is usable"
