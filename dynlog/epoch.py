"""A producer's epoch: given out by the log, raised once an append had to be given up, never taken from a successor.

An append that was given up may still be on its way.  So before anything else is sent, the epoch rises, and whatever
arrives late under the old one is refused.  It rises only while no append is under way, or it would fence the producer's
own other partitions; and only if it is still the newest, or a zombie would fence the instance that replaced it.

A rise whose answer is lost may have been done: then the newest epoch is one that nobody uses.  A ``sole`` producer,
whose name no other instance can have, takes the one after it.  Any other cannot tell it from a successor's, so it is
fenced: it has to be opened anew, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dynlog.delivery import DeliveryPolicy
from dynlog.errors import DeadlineExceeded, LogUnavailable, OutcomeUnknown
from dynlog.log import Log
from dynlog.timing import Deadline


class Epoch:
    """The epoch under which a producer writes; ``risen`` is called whenever it has become another one."""

    def __init__(
        self, log: Log, producer_id: str, policy: DeliveryPolicy, risen: Callable[[], None], *, sole: bool
    ) -> None:
        self._log, self._producer_id, self._policy, self._risen = log, producer_id, policy, risen
        self._sole = sole
        self._stale = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self.number = 0

    async def register(self) -> None:
        """Takes the next epoch: every earlier instance of this producer is fenced."""
        self.number = await self._log.register_producer(self._producer_id)

    def give_up(self) -> None:
        """An append was given up: no other one begins under this epoch."""
        self._stale = True

    @property
    def stale(self) -> bool:
        """Whether it has to rise before anything is sent."""
        return self._stale

    async def enter(self) -> None:
        """Before an append; waits while the epoch has to rise, for as long as the policy lets a delivery take.

        Raises LogUnavailable if it cannot rise, with nothing sent, and ProducerFenced if a successor registered.
        """
        while self._stale:
            async with self._one_at_a_time:
                if self._stale:
                    await self._rise()
        self.begin()

    def begin(self) -> None:
        """As `enter`, of an epoch that is not stale."""
        self._under_way += 1

    def leave(self) -> None:
        """After an append, whatever came of it."""
        self._under_way -= 1
        if self._stale and not self._under_way:
            self._idle.set()

    async def _rise(self) -> None:
        deadline = Deadline(self._policy.timeout_s)
        self._idle.clear()
        while self._under_way:
            await self._idle.wait()  # each of them ends within the policy's time
        for pause in self._policy.backoff:
            try:
                self.number = await self._log.register_producer(
                    self._producer_id,
                    after=None if self._sole else self.number,
                    timeout=self._policy.attempt_timeout_s,
                )
                break
            except (LogUnavailable, DeadlineExceeded, OutcomeUnknown) as error:
                if deadline.remaining <= pause:
                    raise LogUnavailable(f"nothing was sent: after an append of unknown outcome {error}") from error
            await asyncio.sleep(pause)
        self._stale = False
        self._risen()
