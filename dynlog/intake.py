"""The way of a partition's records into a lane: read, decided by mark, sorted by key, as far as there is room.

What is passed over is counted, never silent: repeats, holes, records replayed for another group, and (only if the
settings say so) what was truncated before it was read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Literal

from dynlog.batch import Batch, Position, StoredRecord
from dynlog.codec import encoded_bound
from dynlog.dead_letters import FOR_GROUP
from dynlog.dedupe import DedupeTable
from dynlog.effects import lane_of
from dynlog.errors import ConfigurationError, DeadlineExceeded, LogUnavailable, OffsetTruncated
from dynlog.lane import Lane, Room
from dynlog.log import Log, Where
from dynlog.marks import EXPIRY_MS
from dynlog.membership import GroupTiming
from dynlog.received import Delivery, Settler
from dynlog.retry import RetryPolicy
from dynlog.timing import Backoff
from dynlog.topics import Topic

logger = logging.getLogger(__name__)
READ_WAIT_S = 20.0
HELD_UP_S = 5.0
"""How long a partition waits for one record before that is told."""


class Guarantee(Enum):
    """How often a record is handled.

    AT_MOST_ONCE commits each record before it is handed out (one durable commit per record, partitions in order) and
    tries none again.  AT_LEAST_ONCE commits after.  EXACTLY_ONCE is at least once with effects (`Delivery.emit`) that
    are in the log once; keys share 64 lanes per partition, each handled in order.
    """

    AT_MOST_ONCE = "at most once"
    AT_LEAST_ONCE = "at least once"
    EXACTLY_ONCE = "exactly once in effect"


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """How a consumer consumes.

    ``start`` is where a name begins that never committed.  ``max_in_flight`` and ``max_in_flight_bytes`` bound what was
    read and is not done, over all partitions; a record that is never done stops its partition, and no other, once
    65,536 records were taken from it on (`dynlog.lane.MOST_AHEAD`).  ``drain_s`` is how long handlers may take to
    finish when their partition moves or the consumer stops.  ``on_truncated="skip"`` goes on at the earliest record
    that is left, and counts.
    """

    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    start: Where = "earliest"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_in_flight: int = 256
    max_in_flight_bytes: int = 16 << 20
    drain_s: float = 10.0
    on_truncated: Literal["raise", "skip"] = "raise"
    timing: GroupTiming = field(default_factory=GroupTiming)

    def __post_init__(self) -> None:
        if self.max_in_flight < 1 or self.max_in_flight_bytes < 1 or self.drain_s < 0:
            raise ConfigurationError(
                f"{self}: max_in_flight and max_in_flight_bytes are above zero, drain_s is not below"
            )


@dataclass(slots=True)
class Counts:
    """What a consumer did and saw since it was opened, in records."""

    handed: int = 0
    done: int = 0
    retried: int = 0
    parked: int = 0
    lost: int = 0
    repeats: int = 0
    holes: int = 0
    truncated: int = 0
    not_ours: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class Intake:
    """Fills the lanes of one consumer."""

    def __init__(
        self, log: Log, topic: Topic, group: str | None, settings: ConsumerSettings, room: Room, settler: Settler
    ) -> None:
        self._log, self._topic, self._group = log, topic, group
        self._settings, self._room, self._settler = settings, room, settler
        self.counts = Counts()

    async def fill(self, lane: Lane) -> None:
        """Reads on until it is cancelled; raises OffsetTruncated, LogDiverged, LogCorrupt and what else `Log.read`
        raises that does not pass by itself."""
        seen = None if self._log.capabilities.checks_marks else await self._already_seen(lane.position)
        pauses = iter(Backoff())
        while True:
            try:
                batch = await self._log.read(lane.position, wait=READ_WAIT_S)
            except (LogUnavailable, DeadlineExceeded) as error:
                logger.warning("reading %s/%d: %s; trying again", self._topic.name, lane.partition, error)
                await asyncio.sleep(next(pauses))
                continue
            except OffsetTruncated as error:
                if self._settings.on_truncated == "raise":
                    raise
                self.counts.truncated += error.earliest - lane.position.offset
                logger.warning("%s: going on at %d", error, error.earliest)
                lane.position = lane.position._replace(offset=error.earliest)
                lane.watermark.passed(error.earliest)
                continue
            pauses = iter(Backoff())
            await self._take(lane, batch, seen)

    async def _take(self, lane: Lane, batch: Batch, seen: DedupeTable | None) -> None:
        self.counts.holes += batch.next_offset - lane.position.offset - len(batch)
        kept = batch if seen is None else seen.filter(batch)
        self.counts.repeats += len(batch) - len(kept)
        for stored in kept:
            group = stored.record.headers.get(FOR_GROUP)
            if group is not None and group.decode(errors="replace") != self._group:
                self.counts.not_ours += 1
                continue
            if lane.full:
                await self._until_done(lane)
            size = encoded_bound(stored.record)
            await self._room.take(size)
            lane.watermark.passed(stored.offset)
            order = self._order(stored)
            lane.add(Delivery(batch.topic, batch.incarnation, stored, order, size, self._settler))
        lane.watermark.passed(batch.next_offset)
        lane.position = batch.next_position

    async def _until_done(self, lane: Lane) -> None:
        """One record holds up all that follow it, which is better than to remember without end what was done."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HELD_UP_S):
                await lane.not_full()
            return
        logger.warning(
            "%s/%d: the record at offset %d is not done although %d from it on were taken: the partition waits for it; "
            "see whether its handler hangs",
            self._topic.name, lane.partition, lane.watermark.position, lane.watermark.span,
        )  # fmt: skip
        await lane.not_full()

    def _order(self, stored: StoredRecord) -> object:
        """Records of the same order are handled one after the other."""
        match self._settings.guarantee:
            case Guarantee.AT_MOST_ONCE:
                return None
            case Guarantee.EXACTLY_ONCE:
                return lane_of(stored.record.key)
            case Guarantee.AT_LEAST_ONCE:
                return stored.record.key if stored.record.key is not None else stored.offset

    async def _already_seen(self, position: Position) -> DedupeTable:
        """The marks before the position, as far back as they count: a repeat may lie behind it."""
        table = DedupeTable()
        at = await self._log.position(position.topic, position.partition)
        if at.offset >= position.offset:
            return table
        last = await self._log.read(position._replace(offset=position.offset - 1), max_records=1)
        if len(last):
            since = await self._log.offset_at(position.topic, position.partition, last.log_times[0] - EXPIRY_MS)
            at = at._replace(offset=max(at.offset, min(since, position.offset)))
        while at.offset < position.offset:
            batch = await self._log.read(at)
            below = sum(offset < position.offset for offset in batch.offsets)
            table.apply(batch.slice(0, below))
            at = batch.next_position
            if batch.next_offset >= batch.end_offset:
                break
        return table
