"""Leases whose holder is gone: every process that has the bucket open listens for it, and says so in the log.

* **Only silence at the log's end counts**: before it accuses anybody an observer asks the log for its end, reads to
  there, and forgets the accusation if a heartbeat came.
* An expiry names the last heartbeat that its author saw, and the fold voids it if a newer one is ahead of it; so
  several observers, and slow ones, do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from dynlog.errors import DynlogError
from dynlog.kv.follower import Follower
from dynlog.kv.lease_fold import Lease
from dynlog.kv.lease_silence import Silence
from dynlog.kv.records import Expire
from dynlog.kv.writer import Writer
from dynlog.log import Log
from dynlog.timing import Clock, Deadline

logger = logging.getLogger(__name__)
LOOK_S = 0.1
"""So often is it noted who was heard of, as long as there are leases."""
JITTER_S = 0.2
"""Of several observers mostly one speaks: the others see that it is said."""
AT_ONCE = 4096
SAY_S = 10.0


class LeaseObserver:
    """Listens to one bucket's leases."""

    def __init__(self, log: Log, follower: Follower, writer: Writer, clock: Clock) -> None:
        self._log, self._follower, self._writer, self._clock = log, follower, writer, clock
        self._silent: dict[str, Lease] = {}
        self._accusing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            await self._listen()
        finally:
            if self._accusing is not None:
                self._accusing.cancel()
                await asyncio.gather(self._accusing, return_exceptions=True)

    async def _listen(self) -> None:
        follower, fold = self._follower, None
        silence = Silence(0.0)
        while follower.failure is None:
            seen = follower.restless.count
            if follower.fold is not fold:  # at the beginning, and when the state was rebuilt
                fold = follower.fold
                fold.heard_of()
                silence = Silence(self._clock.monotonic(), fold.leases.values())
            if not fold.leases:
                await follower.restless.beyond(seen)
                continue
            await asyncio.sleep(LOOK_S)
            if follower.stale_since_ms is not None or follower.fold is not fold:
                continue  # what could not be heard is nobody's silence: the next look comes after a pause
            silent = silence.look(self._clock.monotonic(), fold.heard_of(), fold.leases)
            self._silent |= {lease.id: lease for lease in silent}
            if self._silent and (self._accusing is None or self._accusing.done()):
                accused = list(self._silent.values())[:AT_ONCE]
                for lease in accused:
                    del self._silent[lease.id]
                self._accusing = asyncio.create_task(self._accuse(accused))

    async def _accuse(self, silent: Sequence[Lease]) -> None:
        follower = self._follower
        try:
            await asyncio.sleep(random.uniform(0, JITTER_S))
            end = (await self._log.partitions(follower.topic.name, timeout=SAY_S))[0].end
            await follower.reached(end, Deadline(SAY_S))
        except DynlogError as error:
            logger.warning("bucket %s: nobody is accused without the log's end: %s", follower.bucket, error)
            return
        lives = follower.fold.leases
        gone = [lease for lease in silent if (now := lives.get(lease.id)) is not None and now.beat == lease.beat]
        for lease in gone:
            logger.info(
                "bucket %s: nothing was heard of lease %s (%s) for %g s",
                follower.bucket, lease.id, lease.owner, lease.ttl_ms / 1000,
            )  # fmt: skip
        said = [self._writer.say(Expire(lease.id, lease.beat), SAY_S) for lease in gone]  # they leave in one append
        for outcome in await asyncio.gather(*said, return_exceptions=True):
            if isinstance(outcome, DynlogError):  # it is said again, if it has to be
                logger.warning("bucket %s: an expiry was not said: %s", follower.bucket, outcome)
                return
