"""Engines that do not check marks: whether an append that came too late only repeats one that was stored.

An append with ``expect`` that won lies exactly where it expected to, so one look there tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dynlog.batch import Batch, Position
from dynlog.errors import LogDiverged, LogError, MalformedRecord, OffsetTruncated, OutcomeUnknown
from dynlog.record import Record
from dynlog.timing import Deadline

Read = Callable[[Position, int], Awaitable[Batch]]
"""Reads from a position at most so many records, without waiting."""


async def is_repeat(read: Read, position: Position, records: Sequence[Record], deadline: Deadline) -> bool:
    """Whether the records at ``position`` bear the marks of these, one by one.

    Raises OutcomeUnknown if that cannot be found out: what lay there was truncated, or cannot be read in time.
    """
    if any(record.mark is None for record in records):
        return False
    try:
        async with asyncio.timeout(deadline.remaining):
            at = 0
            while at < len(records):
                batch = await read(position._replace(offset=position.offset + at), len(records) - at)
                for found in batch:
                    if found.offset != position.offset + at or found.record.mark != records[at].mark:
                        return False
                    at += 1
                if not len(batch):
                    return False
    except (LogDiverged, MalformedRecord):
        return False
    except OffsetTruncated:
        why = "what lay where it expected to lie was truncated"
    except TimeoutError:
        why = "where it expected to lie could not be read in time"
    except LogError as error:
        why = f"where it expected to lie cannot be read: {error}"
    else:
        return True
    raise OutcomeUnknown(
        f"the end was no longer {position.offset}, and whether an earlier try of this append was stored there is not "
        f"known: {why}",
        topic=position.topic,
        partition=position.partition,
    )
