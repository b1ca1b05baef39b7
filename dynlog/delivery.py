"""One append, delivered: what is tried again, for how long, and what the caller is told when it is given up.

An append whose outcome is unknown is repeated under the same marks, which is harmless; one that surely was not stored
is repeated as well; what cannot get better by repeating is raised at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dynlog.errors import DeadlineExceeded, DynlogError, LogFull, LogUnavailable, OutcomeUnknown
from dynlog.log import Log
from dynlog.record import Record
from dynlog.timing import Backoff, Deadline
from dynlog.topics import Appended


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """``timeout_s`` bounds the whole delivery of a batch, ``attempt_timeout_s`` each try of it."""

    timeout_s: float = 120.0
    attempt_timeout_s: float = 15.0
    backoff: Backoff = field(default_factory=Backoff)


async def deliver(
    log: Log, topic: str, partition: int, records: Sequence[Record], policy: DeliveryPolicy, *,
    timeout: float | None = None, incarnation: str | None = None,
) -> Appended:  # fmt: skip
    """Appends, repeating until it is known how it ended or the policy's time, or a shorter ``timeout``, is over.

    Raises OutcomeUnknown if it was given up after a try that may have stored it; LogUnavailable if surely no try did;
    any other error of `Log.append` at once, as OutcomeUnknown if an earlier try may have stored it.
    """
    left = policy.timeout_s if timeout is None else min(timeout, policy.timeout_s)
    deadline = Deadline(left)
    ambiguous: DynlogError | None = None
    last: DynlogError
    pauses: Iterator[float] | None = None
    while True:
        try:
            return await log.append(
                topic, partition, records,
                timeout=max(min(policy.attempt_timeout_s, left), 0.001), incarnation=incarnation,
            )  # fmt: skip
        except (OutcomeUnknown, DeadlineExceeded) as error:
            ambiguous, last = error, error
        except LogFull as error:
            if ambiguous is None:
                raise
            raise _unknown(topic, partition, len(records), ambiguous) from error
        except LogUnavailable as error:
            last = error
        except DynlogError as error:
            if ambiguous is None:
                raise
            raise _unknown(topic, partition, len(records), error) from error
        pauses = pauses or iter(policy.backoff)
        pause = next(pauses)
        if deadline.remaining <= pause:
            if ambiguous is not None:
                raise _unknown(topic, partition, len(records), ambiguous) from last
            raise last
        await asyncio.sleep(pause)
        left = deadline.remaining


def _unknown(topic: str, partition: int, count: int, cause: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"{count} records may or may not be stored ({cause}); read the topic, or send them again under the same marks",
        topic=topic,
        partition=partition,
    )
