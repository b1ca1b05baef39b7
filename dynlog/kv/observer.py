"""Values whose time is over: any process that has the bucket open says so, and the fold decides by log time.

An observer's clock only decides when it *asks*: a Lapse that comes too early by log time is void.  So a clock that
jumps can make a value stay a little longer than its time, never shorter.
"""

from __future__ import annotations

import asyncio
import logging
import random

from dynlog.errors import DynlogError
from dynlog.kv.fold import Outcome, Verdict
from dynlog.kv.follower import Follower
from dynlog.kv.writer import Writer
from dynlog.timing import Clock

logger = logging.getLogger(__name__)
LOOK_S = 1.0
"""At the latest so often is the clock looked at while a value has a time to live."""
JITTER_S = 0.1
"""Of several observers mostly one speaks: the others see that it is said."""
AT_ONCE = 1000
SAY_S = 30.0
CATCH_UP_S = 5.0


class Observer:
    """Watches the times of one bucket's values."""

    def __init__(self, follower: Follower, writer: Writer, clock: Clock) -> None:
        self._follower, self._writer, self._clock = follower, writer, clock
        self._skew_ms = 0  # log time minus our clock, once an expiry of ours came too early

    async def catch_up(self) -> None:
        """Says what is over already, before anybody who has just opened the bucket looks; else a command that is gone
        at once would find values there for ever.  If it cannot be said in a moment, `run` goes on with it."""
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while (due := self._follower.fold.next_due_ms()) is not None and due <= self._now_ms():
                    await self._say()
        except (DynlogError, TimeoutError) as error:
            logger.warning("bucket %s: not all expiries were said: %s", self._follower.bucket, error or "no answer yet")

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._follower.failure is None:
            seen = self._follower.restless.count
            due = self._follower.fold.next_due_ms()
            if due is None:
                await self._follower.restless.beyond(seen)
                continue
            wait = (due - self._now_ms()) / 1000
            if wait > 0:
                await asyncio.sleep(min(wait + 0.002, LOOK_S))
                continue
            await asyncio.sleep(random.uniform(0, JITTER_S))
            try:
                await self._say()
            except DynlogError as error:  # the next look is the repetition
                logger.warning("bucket %s: an expiry was not said: %s", self._follower.bucket, error)
                await asyncio.sleep(LOOK_S)

    def _now_ms(self) -> int:
        return max(self._clock.time_ms() + self._skew_ms, self._follower.fold.time_ms)

    async def _say(self) -> None:
        asked_ms = self._clock.time_ms()
        lapses = self._follower.fold.due(self._now_ms(), AT_ONCE)
        said = [self._writer.say(lapse, SAY_S) for lapse in lapses]  # they leave in one append
        outcomes = await asyncio.gather(*said, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if any(isinstance(outcome, Outcome) and outcome.verdict is Verdict.VOID for outcome in outcomes):
            # Compared with when it was asked: how long the answer took is no skew.
            self._skew_ms = min(self._follower.fold.time_ms - asked_ms, 0)
