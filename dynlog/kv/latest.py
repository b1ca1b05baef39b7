"""How a read becomes linearizable: the state is brought to where the log ends, as of a moment after the call.

Where the engine's reads see everything that was acknowledged before (`Capabilities.reads_latest`), it is asked whether
there is anything behind what is folded already; mostly there is not.  Elsewhere a barrier is written, and what lies
before it in the log is everything.
"""

from __future__ import annotations

import asyncio

from dynlog.delivery import DeliveryPolicy
from dynlog.errors import Closed, DeadlineExceeded, LogDiverged, OffsetTruncated, TopicNotFound
from dynlog.kv.follower import Follower
from dynlog.kv.writer import Writer
from dynlog.live import PASSING
from dynlog.log import Log
from dynlog.tasks import ended
from dynlog.timing import Deadline


class Latest:
    """Brings one bucket's state to the log's end; callers that come at once share the question."""

    def __init__(self, log: Log, follower: Follower, writer: Writer, policy: DeliveryPolicy) -> None:
        self._log, self._follower, self._writer, self._policy = log, follower, writer, policy
        self._asking: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def reach(self, timeout: float) -> int:
        """The revision as of which everything is known that had returned anywhere before the call.

        Raises DeadlineExceeded, LogUnavailable, OutcomeUnknown, BucketNotFound, Closed.
        """
        if not self._log.capabilities.reads_latest:
            return (await self._writer.barrier(timeout)).offset
        self._follower.check()
        deadline = Deadline(timeout)
        try:
            async with asyncio.timeout(timeout):
                end = await self._end(deadline)
        except TimeoutError:
            raise DeadlineExceeded(f"bucket {self._follower.bucket!r}: no answer in {timeout:g} s") from None
        if end > self._follower.offset:
            await self._follower.reached(end, deadline)
        self._follower.check()
        return self._follower.offset - 1

    async def _end(self, deadline: Deadline) -> int:
        for pause in self._policy.backoff:
            self._follower.check()
            # What was asked before may have missed what has returned since: whoever comes later shares the next one.
            if self._next is None:
                self._next = asyncio.create_task(self._ask(self._asking), name=f"dynlog-kv-{self._follower.bucket}-end")
                self._next.add_done_callback(_heard)
            try:
                return await asyncio.shield(self._next)
            except (*PASSING, LogDiverged, OffsetTruncated, TopicNotFound):  # the follower learns what it means
                if deadline.remaining <= pause:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("a backoff never ends")

    async def _ask(self, before: asyncio.Task[int] | None) -> int:
        """Where the log ends now."""
        bucket, limit = self._follower.bucket, self._policy.attempt_timeout_s
        try:
            if before is not None:
                await asyncio.wait([before])
            self._asking, self._next = self._next, None
            position = self._follower.position
            async with asyncio.timeout(limit):
                # A read and not `partitions`: it is of this very topic, not of another one of its name.
                return (await self._log.read(position, max_records=1)).end_offset
        except TimeoutError:
            raise DeadlineExceeded(f"bucket {bucket!r}: the log did not say in {limit:g} s where it ends") from None
        except asyncio.CancelledError:
            raise Closed(f"bucket {bucket!r} was closed") from None  # nobody else cancels it

    async def close(self) -> None:
        """Ends what is asked; whoever waits for it gets Closed."""
        tasks = [task for task in (self._asking, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await ended(asyncio.gather(*tasks, return_exceptions=True))


def _heard(task: asyncio.Task[int]) -> None:
    if not task.cancelled():
        task.exception()  # everybody who waited for it may be gone
