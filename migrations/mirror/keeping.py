"""A mirror outlives outages: after one it is opened anew, finds where to go on, and goes on.

What may pass by itself is waited for, for so long; what cannot is raised at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dynlog.errors import DeadlineExceeded, LogUnavailable, OutcomeUnknown, SourceUnavailable
from dynlog.migrations.mirror.counts import Standing
from dynlog.timing import Backoff, Deadline

logger = logging.getLogger("dynlog.mirror")
PASSING = (SourceUnavailable, LogUnavailable, OutcomeUnknown, DeadlineExceeded)
PATIENCE_S = 600.0
_PAUSES = Backoff(first=0.1, most=5.0)

Told = Callable[[Standing], None]


async def keep_mirroring(
    session: Callable[[Told], Awaitable[None]], standing: Standing, told: Told, *, patience_s: float = PATIENCE_S
) -> None:
    """Runs sessions until one ends by itself.

    Raises what a session raises, if it cannot pass or has not for ``patience_s`` seconds in which nothing went on.
    """
    deadline: Deadline | None = None
    pauses = iter(_PAUSES)
    said = ""

    why: Exception | None = None
    limit = asyncio.timeout(None)

    def heard(now: Standing) -> None:
        nonlocal deadline, pauses, said
        if said:
            now.outage = ""
        deadline, pauses, said = None, iter(_PAUSES), ""
        limit.reschedule(None)
        told(now)

    while True:
        try:
            async with asyncio.timeout(None if deadline is None else deadline.remaining) as limit:
                await session(heard)
            return
        except TimeoutError:
            if why is None or not limit.expired():
                raise
            raise why from None
        except PASSING as error:
            why = error
            deadline = deadline or Deadline(patience_s)
            if deadline.passed:
                raise
            standing.outage = str(error)
            if said != standing.outage:
                logger.warning("the mirror of %s waits: %s", standing.source, error)
                said = standing.outage
            told(standing)
        await asyncio.sleep(min(next(pauses), deadline.remaining))
