"""How facts get into a bucket's log: in one lane, each once, and whoever said one learns what came of it.

What is said while an append is under way goes into the next one (group commit, no linger); who says something alone
appends it in its own task.  Nothing overtakes an append whose outcome is unknown: the lane retries it under its marks
behind whoever was cancelled, and if it is given up the epoch rises, so that a copy of it that is still on its way is
refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from dynlog.budget import Budget
from dynlog.codec import body_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.epoch import Epoch
from dynlog.errors import (
    BatchTooLarge,
    BucketNotFound,
    Closed,
    DeadlineExceeded,
    DynlogError,
    OutcomeUnknown,
    TopicNotFound,
)
from dynlog.kv.fold import Outcome
from dynlog.kv.follower import Follower
from dynlog.kv.records import Barrier, Beat, Fact, to_body
from dynlog.kv.said import Said
from dynlog.limits import Limits
from dynlog.log import Log
from dynlog.record import Mark, Record
from dynlog.tasks import ended

MAX_PENDING_BYTES = 8 << 20
MAX_FACTS = 4096
"""So many facts go into one append at most: folding them is some milliseconds."""
MARK_BYTES = 300


class Writer:
    """Says facts to one bucket."""

    def __init__(self, log: Log, follower: Follower, policy: DeliveryPolicy) -> None:
        self._log, self._follower, self._policy = log, follower, policy
        self._loop = asyncio.get_running_loop()
        self._topic, self._incarnation = follower.topic.name, follower.topic.incarnation
        self._epoch = Epoch(log, follower.producer_id, policy, self._count_anew, sole=True)
        self._max_batch = log.capabilities.max_batch_bytes - MARK_BYTES
        self._budget = Budget(MAX_PENDING_BYTES)
        self._limits = Limits()
        self._queue: deque[Said] = deque()
        self._barrier: Said | None = None
        self._sequence = 0
        self._registered = False
        self.closed = False  # takes nothing more
        self._lane: asyncio.Task[None] | None = None
        self._leader: Said | None = None  # what whoever says it appends without the lane
        self._led = asyncio.Event()  # and that is over, once the writer is being closed
        self._alone = True
        """Whether nobody else said anything while the last fact was appended."""
        self._turn = asyncio.Lock()  # held around each append
        self._outside = 0
        """How many others have the turn or wait for it."""

    async def say(self, fact: Fact, timeout: float) -> Outcome:
        """Appends the fact and returns what the fold made of it.

        Raises MalformedRecord, BatchTooLarge, LogUnavailable, LogFull and DeadlineExceeded (nothing was written),
        OutcomeUnknown (it may have been), Closed, BucketNotFound.
        """
        key, parts = to_body(fact)
        size = body_bound(key, parts) + MARK_BYTES
        if size > self._max_batch:
            raise BatchTooLarge(
                f"a record of up to {size} bytes is over the {self._max_batch} that one append may have: nothing was "
                "written",
                topic=self._topic,
            )
        self._check()
        if timeout <= 0:
            raise self._too_late(timeout, None)
        until = self._loop.time() + timeout
        if not self._budget.take_now(size):
            try:
                async with asyncio.timeout_at(until):
                    await self._budget.take(size)
            except TimeoutError:
                raise self._too_late(timeout, None) from None
            self._check_again(size)
        said = Said(key, parts, size, self._loop)
        if self._may_lead:
            await self._lead(said, timeout, until)
            if said.future.done():
                return said.future.result()
        else:
            if type(fact) is Beat:  # a lease must not be lost to politeness
                self._follower.pausing.end()
            self._enqueue(said)
        self._limits.begin(said.future, until, lambda: self._too_late(timeout, said))
        try:
            return await said.future
        except asyncio.CancelledError:
            self._forget(said)
            raise
        finally:
            self._limits.end(said.future)

    async def barrier(self, timeout: float) -> Outcome:
        """Returns once everything that was acknowledged before the call is folded; callers share an append."""
        key, parts = to_body(Barrier())
        size = body_bound(key, parts) + MARK_BYTES
        self._check()
        try:
            async with asyncio.timeout(timeout):
                while (said := self._barrier) is None or said.sent or said.future.done():
                    await self._budget.take(size)
                    self._check_again(size)
                    if self._barrier is said:  # nobody else said one while there was no room
                        self._barrier = said = Said(key, parts, size, self._loop)
                        self._enqueue(said)
                    else:
                        self._budget.give(size)
                return await asyncio.shield(said.future)
        except TimeoutError:
            raise DeadlineExceeded(f"bucket {self._follower.bucket!r}: no answer in {timeout:g} s") from None

    def _check_again(self, size: int) -> None:
        """After there was no room for a while."""
        try:
            self._check()
        except DynlogError:
            self._budget.give(size)
            raise

    def _enqueue(self, said: Said) -> None:
        self._queue.append(said)
        if self._lane is None and self._leader is None:
            self._start_lane()

    def _start_lane(self) -> None:
        self._lane = asyncio.create_task(self._run(), name=f"dynlog-kv-{self._follower.bucket}-writer")

    def _check(self) -> None:
        self._follower.check()  # it may know more of why
        if self.closed:
            raise Closed(f"bucket {self._follower.bucket!r} was closed")

    def _too_late(self, timeout: float, said: Said | None) -> DynlogError:
        bucket = self._follower.bucket
        if said is None or not said.sent:
            self._forget(said)
            return DeadlineExceeded(f"bucket {bucket!r}: not written in {timeout:g} s, and it will not be")
        return OutcomeUnknown(
            f"no answer in {timeout:g} s: it may or may not have been written; read it (linearizable) to learn which",
            topic=self._topic,
        )

    def _forget(self, said: Said | None) -> None:
        """Takes back what has not been sent."""
        if said is not None and not said.sent:
            with suppress(ValueError):
                self._queue.remove(said)
                self._budget.give(said.size)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Nothing of this writer is under way in it: for whoever else appends to the bucket from this process."""
        self._outside += 1
        try:
            async with self._turn:
                yield
        finally:
            self._outside -= 1

    async def close(self, timeout: float) -> None:
        """Takes nothing more; what was said before is written and folded, or given up when the time is over."""
        self.closed = True
        self._follower.pausing.end()
        try:
            async with asyncio.timeout(timeout):
                if self._leader is not None:
                    await self._led.wait()
                if self._lane is not None:
                    await asyncio.wait([self._lane])
                if self._follower.waiting:  # for its turn to be folded
                    await asyncio.wait(set(self._follower.waiting.values()))
        except TimeoutError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        """Whoever still waits is told what is known."""
        if self._leader is not None:
            self._leader.fail(OutcomeUnknown("the bucket was closed meanwhile", topic=self._topic))
            self._leader.give_up()
        try:
            if self._lane is not None:
                self._lane.cancel()
                await ended(self._lane)
        finally:
            self._fail(self._queue, Closed(f"bucket {self._follower.bucket!r} was closed before it was written"))
            self._queue.clear()
            self._budget.close()
            self._limits.close()

    # Alone

    @property
    def _may_lead(self) -> bool:
        return (
            self._alone and self._registered and self._lane is None and self._leader is None
            and not self._outside and not self._epoch.stale and not self._follower.pausing.active
        )  # fmt: skip

    async def _lead(self, said: Said, timeout: float, until: float) -> None:
        """Appends one fact in the task of whoever says it, which saves waking another one and being woken by it.

        If the time is over, or that task is cancelled, the append is given up.
        """
        self._leader = said
        await self._turn.acquire()  # it does not wait: nobody has the turn, or waits for it
        self._epoch.begin()
        said.task = task = asyncio.current_task(self._loop)
        assert task is not None
        cancelled = task.cancelling()

        def too_late() -> DynlogError:
            said.give_up()
            return self._too_late(timeout, said)

        self._limits.begin(said.future, until, too_late)
        try:
            self._mark(said)
            await self._append([said], timeout)
        except BaseException as error:
            self._epoch.give_up()
            self._fail([said], self._too_late(timeout, said))
            if not said.given_up or task.uncancel() > cancelled or not isinstance(error, asyncio.CancelledError):
                raise
        else:
            if said.given_up:
                task.uncancel()
        finally:
            self._limits.end(said.future)
            self._epoch.leave()
            self._turn.release()
            self._leader = None
            if self.closed:
                self._led.set()
            if self._queue:
                self._alone = False
                self._start_lane()

    # The lane

    async def _run(self) -> None:
        batch: list[Said] = []
        count = 0
        try:
            while self._queue:
                await self._follower.pausing.over()
                async with self._turn:
                    if self._follower.pausing.active:  # since this waited for its turn
                        continue
                    if not self._registered:
                        await self._epoch.register()
                        self._registered = True
                    await self._epoch.enter()
                    try:
                        batch = self._next_batch()
                        count = len(batch)
                        if batch:
                            await self._append(batch)
                    finally:
                        self._epoch.leave()
                batch = []
        except asyncio.CancelledError:
            unknown = OutcomeUnknown("the bucket was closed meanwhile", topic=self._topic)
            self._fail(batch, unknown)
            self._fail(self._queue, Closed(f"bucket {self._follower.bucket!r} was closed before it was written"))
            raise
        except DynlogError as error:  # no epoch
            self._fail(self._queue, self._named(error))
        except Exception as error:  # a defect; nobody is to wait for ever because of it
            self._fail([*batch, *self._queue], OutcomeUnknown(f"the append failed: {error!r}", topic=self._topic))
            raise
        finally:
            self._queue.clear()
            self._lane = None
            self._alone = count == 1

    def _next_batch(self) -> list[Said]:
        batch: list[Said] = []
        size = 0
        while self._queue and len(batch) < MAX_FACTS and size + self._queue[0].size <= self._max_batch:
            said = self._queue.popleft()
            if said.future.done():  # cancelled in the same instant
                self._budget.give(said.size)
                continue
            self._mark(said)
            batch.append(said)
            size += said.size
        return batch

    def _mark(self, said: Said) -> None:
        """It is about to be sent."""
        said.mark = Mark(self._follower.producer_id, self._epoch.number, self._sequence)
        said.sent = True
        self._sequence += 1
        self._follower.waiting[said.mark.epoch, said.mark.sequence] = said.future

    async def _append(self, batch: list[Said], timeout: float | None = None) -> None:
        records = [Record(said.parts, said.key, mark=said.mark) for said in batch]
        self._follower.appending()
        try:
            done = await deliver(
                self._log, self._topic, 0, records, self._policy, timeout=timeout, incarnation=self._incarnation
            )
        except DynlogError as error:
            if isinstance(error, Closed) and self.closed:
                error = OutcomeUnknown("the bucket was closed meanwhile", topic=self._topic)
            if isinstance(error, OutcomeUnknown):
                self._epoch.give_up()
            self._fail(batch, self._named(error))
            return
        self._follower.take_own(done, records)
        for said in batch:
            self._budget.give(said.size)

    def _named(self, error: DynlogError) -> DynlogError:
        if isinstance(error, TopicNotFound):
            return BucketNotFound("it was deleted while it was in use", bucket=self._follower.bucket)
        return error

    def _fail(self, batch: list[Said] | deque[Said], error: DynlogError) -> None:
        for said in batch:
            self._budget.give(said.size)
            if said.mark is not None:
                self._follower.waiting.pop((said.mark.epoch, said.mark.sequence), None)
            said.fail(error)

    def _count_anew(self) -> None:
        self._sequence = 0
