"""A reader without a name keeps records while it is there, and nothing once it has left."""

from __future__ import annotations

import asyncio

from dynlog.holding import Follower
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.topics import Holder
from tests.conformance.backend import TOPIC
from tests.faulty import FaultyLog


class SlowToHold(FaultyLog):
    """The log, but what is said of a holder waits at the gate."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.waiting = asyncio.Event()

    async def hold(self, topic: str, holder: Holder) -> None:
        self.waiting.set()
        await self.gate.wait()
        await self._log.hold(topic, holder)


async def test_one_that_leaves_while_a_commit_of_it_is_under_way_leaves_no_trace() -> None:
    async with open_log("memory://") as log:
        info = await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, [Record((b"x",))])
        slow = SlowToHold(log)
        follower = Follower(slow.log, info, "earliest")
        await follower.enter()
        slow.gate.clear()
        slow.waiting.clear()
        committing = asyncio.create_task(follower.commit((0, 0), {0: 1}))
        await slow.waiting.wait()
        leaving = asyncio.create_task(follower.leave())
        for _ in range(5):
            await asyncio.sleep(0)
        slow.gate.set()
        await asyncio.gather(committing, leaving)
        await follower.commit((0, 0), {0: 1})  # a late one changes nothing
        assert await log.holders(TOPIC) == []
