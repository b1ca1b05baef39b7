"""The ingest loop: what a source hands over becomes durable in its order, and is acknowledged in that order.

* **Nothing overtakes a failure**: after an append that failed nothing else of the source is sent, so a restarted ingest
  finds no hole behind which the log goes on.
* **A refusal is parked first**: ``<topic>.rejected`` holds it before any record that the source handed over after it.
* **Memory is bounded** by unacknowledged bytes; the source waits.
* Stopping means: take no more, acknowledge what was taken, return.

Records keep the marks of their source, so the log drops what comes again.  This is not built on `Producer`, whose lanes
go on with later records after a batch failed: right for a caller who looks at tickets, wrong for a foreign sequence.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynlog.budget import Budget
from dynlog.codec import MAX_RECORDS, encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import BatchTooLarge, DeadlineExceeded
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.log import Log
from dynlog.partition import partition_of
from dynlog.record import Record

MAX_UNACKNOWLEDGED_BYTES = 16 << 20
DRAIN_S = 15.0
"""How long acknowledging may take after a stop; the command line promises to exit within 20 s."""
PARKED_BYTES = 4096
"""Of refused input this much is parked, with the SHA-256 and size of all of it."""
PAYLOAD_OVERHEAD = 64

_LEVELS = {
    NoticeKind.WAITING: logging.DEBUG, NoticeKind.CONNECTED: logging.INFO, NoticeKind.DUPLICATE: logging.INFO,
}  # fmt: skip
logger = logging.getLogger("dynlog.ingest")


@dataclass(slots=True)
class IngestStats:
    """Counters of one ingest; what is counted as stored is durable."""

    events: int = 0
    blocks: int = 0
    records: int = 0
    repeats: int = 0
    """Records that the log had already, by their marks; their events are counted as well."""
    rejected: int = 0
    notices: Counter[NoticeKind] = field(default_factory=Counter)
    """How often each kind of thing happened."""
    missing: int = 0
    """Batches that gaps were wide, whether or not they could be filled."""
    unreached: set[str] = field(default_factory=set)
    """The live sources that there is no connection to."""

    def as_dict(self) -> dict[str, int]:
        """The counters by name: events, blocks, records, repeats, rejected, missing, then one per kind of notice,
        and how many sources are unreached."""
        counters = {
            "events": self.events, "blocks": self.blocks, "records": self.records, "repeats": self.repeats,
            "rejected": self.rejected, "missing": self.missing,
        }  # fmt: skip
        return counters | {kind.value + "s": self.notices[kind] for kind in (NoticeKind.GAP, NoticeKind.CLEAR)} | {
            "duplicates": self.notices[NoticeKind.DUPLICATE], "unverified": self.notices[NoticeKind.UNVERIFIED],
            "overflows": self.notices[NoticeKind.OVERFLOW], "unreached": len(self.unreached),
        }  # fmt: skip


Progress = Callable[[IngestStats], None]


async def ingest(
    log: Log,
    topic: str,
    source: AsyncGenerator[Item, None],
    *,
    stop: asyncio.Event | None = None,
    idle_s: float | None = None,
    progress: Progress | None = None,
    policy: DeliveryPolicy | None = None,
    max_unacknowledged_bytes: int = MAX_UNACKNOWLEDGED_BYTES,
) -> IngestStats:
    """Stores what the source yields until it ends, ``stop`` is set, or nothing came for ``idle_s`` seconds.

    The topic must exist; ``<topic>.rejected`` is created.  Returns once everything taken is durable.  Raises what the
    source raises (after everything taken before is durable) and what an append raises at last.
    """
    partitions = (await log.topic(topic)).partitions
    await log.create_topic(f"{topic}.rejected", exist_ok=True)
    stats = IngestStats()
    lanes = _Lanes(log, topic, partitions, max_unacknowledged_bytes)
    taker = asyncio.create_task(_take(source, lanes, stats, idle_s), name="dynlog-ingest-taker")
    writer = asyncio.create_task(
        lanes.write(policy or DeliveryPolicy(), stats, progress), name="dynlog-ingest-writer"
    )  # fmt: skip
    stopper = asyncio.create_task((stop or asyncio.Event()).wait(), name="dynlog-ingest-stopper")
    tasks = (taker, writer, stopper)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        taker.cancel()
        await asyncio.wait([taker])
        lanes.finish()
        done, _ = await asyncio.wait([writer], timeout=DRAIN_S if stopper.done() else None)
        if not done:
            raise DeadlineExceeded(f"{lanes.waiting} records were not acknowledged within {DRAIN_S:.0f} s of the stop")
        await writer
        if not taker.cancelled():
            await taker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return stats


async def _take(
    source: AsyncGenerator[Item, None], lanes: _Lanes, stats: IngestStats, idle_s: float | None
) -> None:  # fmt: skip
    async with aclosing(source):
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(idle_s) as silence:
                async for item in source:
                    if isinstance(item, Noticed):
                        _note(item, stats)
                        continue
                    if idle_s is not None:
                        silence.reschedule(None)
                    await lanes.put(item)
                    if idle_s is not None:
                        silence.reschedule(loop.time() + idle_s)
        except TimeoutError:
            if not silence.expired():
                raise


def _note(item: Noticed, stats: IngestStats) -> None:
    stats.notices[item.kind] += 1 if item.kind is NoticeKind.GAP else item.times
    if item.kind is NoticeKind.GAP:
        stats.missing += item.times
    if item.kind in (NoticeKind.WAITING, NoticeKind.UNREACHED):
        stats.unreached.add(item.source)
    elif item.kind in (NoticeKind.CONNECTED, NoticeKind.SOURCES):
        stats.unreached.discard(item.source)
    logger.log(_LEVELS.get(item.kind, logging.WARNING), "%s at %s: %s", item.kind.value, item.source, item.detail)


class _Entry(NamedTuple):
    record: Record
    size: int
    item: Taken | Refused


class _Lanes:
    """What was taken and is not durable yet, by topic and partition."""

    def __init__(self, log: Log, topic: str, partitions: int, max_bytes: int) -> None:
        self._log = log
        self._topic = topic
        self._partitions = partitions
        self._max_batch = log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
        self._budget = Budget(max_bytes)
        self._parked: deque[_Entry] = deque()
        self._lanes: list[deque[_Entry]] = [deque() for _ in range(partitions)]
        self._wake = asyncio.Event()
        self._finishing = False

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged."""
        return len(self._parked) + sum(map(len, self._lanes))

    def finish(self) -> None:
        """Nothing more will be put in; `write` ends once all is durable."""
        self._finishing = True
        self._wake.set()

    async def put(self, item: Taken | Refused) -> None:
        """Takes an item, waiting while too much is unacknowledged; a cancelled wait has taken nothing."""
        record = item.record if isinstance(item, Taken) else _parked_record(item)
        size = encoded_bound(record)
        if size > self._max_batch:
            raise BatchTooLarge(
                f"a record of up to {size} bytes is over the {self._max_batch} that one append may have",
                topic=self._topic,
            )
        await self._budget.take(size)
        lane = self._parked
        if isinstance(item, Taken):
            lane = self._lanes[partition_of(record.key or b"", self._partitions)]
        lane.append(_Entry(record, size, item))
        self._wake.set()

    async def write(self, policy: DeliveryPolicy, stats: IngestStats, progress: Progress | None) -> None:
        """Appends what waits, all partitions at once, refusals first; the first failure ends it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Only what is here now: a record put in while the refusals are being parked may belong behind another one.
            counts = [len(lane) for lane in self._lanes]
            await self._drain(f"{self._topic}.rejected", 0, self._parked, len(self._parked), policy, stats)
            busy = [p for p, count in enumerate(counts) if count]
            if len(busy) == 1:
                await self._drain(self._topic, busy[0], self._lanes[busy[0]], counts[busy[0]], policy, stats)
            elif busy:
                await _all_or_first_error(
                    [self._drain(self._topic, p, self._lanes[p], counts[p], policy, stats) for p in busy]
                )
            if progress is not None:
                progress(stats)
            if self.waiting:
                self._wake.set()
            elif self._finishing:
                return

    async def _drain(
        self, topic: str, partition: int, lane: deque[_Entry], count: int, policy: DeliveryPolicy, stats: IngestStats
    ) -> None:
        while count:
            batch: list[_Entry] = []
            size = 0
            for entry in lane:
                if len(batch) == min(count, MAX_RECORDS) or size + entry.size > self._max_batch:
                    break
                batch.append(entry)
                size += entry.size
            count -= len(batch)
            done = await deliver(self._log, topic, partition, [entry.record for entry in batch], policy)
            stats.repeats += done.duplicates
            for entry, offset in zip(batch, done.offsets, strict=True):
                lane.popleft()
                self._budget.give(entry.size)
                if isinstance(entry.item, Refused):
                    stats.rejected += entry.item.events
                else:
                    stats.records += 1
                    stats.events += entry.item.events
                    stats.blocks += entry.item.blocks
                if entry.item.on_stored is not None:
                    entry.item.on_stored(partition, offset)


async def _all_or_first_error(jobs: list[Any]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _parked_record(item: Refused) -> Record:
    headers = {
        "reason": item.reason.encode()[:1024],
        "source": item.source.encode()[:1024],
        "place": item.place.encode()[:256],
        "size": str(len(item.raw)).encode(),
        "sha256": hashlib.sha256(item.raw).hexdigest().encode(),
    }
    return Record((bytes(item.raw[:PARKED_BYTES]),), item.source.encode()[:256], headers, mark=item.mark)
