"""What calls write: taken without waiting, appended in order, and what came together leaves in one append.

A `dynlog.producer.Producer` is awaited and gives a ticket for each record; here answers come from expiries, cancels and
handlers' ends, none of which may wait, and most have nobody who would await a ticket.  Marks, epochs and repetition are
the same: what is appended twice is there once, and what is written under an older epoch is not there at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from dynlog.codec import MAX_RECORDS
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.epoch import Epoch
from dynlog.errors import Closed, DynlogError, OutcomeUnknown, ProducerFenced
from dynlog.log import Log
from dynlog.network.log_clock import LogClock
from dynlog.record import NO_HEADERS, Buffer, Control, Mark, Record

HIGH_WATER_BYTES = 8 << 20
PAYLOAD_OVERHEAD = 4096
RECORD_OVERHEAD = 200
_log = logging.getLogger(__name__)

Done = Callable[[int, DynlogError | None], None]
"""Called once with the offset, or with why the record is not known to be stored."""


class _Entry(NamedTuple):
    parts: tuple[Buffer, ...]
    key: bytes
    control: Control
    size: int
    done: Done | None


class _Lane:
    __slots__ = ("pending", "sequence", "task")

    def __init__(self) -> None:
        self.pending: deque[_Entry] = deque()
        self.sequence = 0
        self.task: asyncio.Task[None] | None = None


class Outbox:
    """Writes under one producer's name; opening the name again fences whoever had it.

    `put` never refuses while it is open: whoever puts many waits for `room` in between.
    """

    def __init__(self, log: Log, producer_id: str, clock: LogClock, policy: DeliveryPolicy | None = None) -> None:
        self._log, self._id, self._clock = log, producer_id, clock
        self._policy = policy or DeliveryPolicy()
        self._epoch = Epoch(log, producer_id, self._policy, self._count_anew, sole=False)
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._used = 0
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._max = log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
        self.failure: DynlogError | None = None
        """Why nothing is written any more: a successor took the name."""
        self.appends = self.records = 0

    async def open(self) -> None:
        """Takes the next epoch."""
        await self._epoch.register()

    @property
    def full(self) -> bool:
        """Whether so much is not durable yet that whoever can wait should."""
        return self._used > HIGH_WATER_BYTES

    async def room(self) -> None:
        """Waits until there is room, or nothing is written any more."""
        await self._room.wait()

    def put(
        self,
        topic: str,
        partition: int,
        key: bytes,
        control: Control,
        parts: tuple[Buffer, ...],
        done: Done | None = None,
    ) -> None:
        """Takes a record; ``done`` is told what became of it, always later than this returns."""
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane()
        size = RECORD_OVERHEAD + sum(map(len, parts))
        lane.pending.append(_Entry(parts, key, control, size, done))
        self._used += size
        if self._used > HIGH_WATER_BYTES:
            self._room.clear()
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(topic, partition, lane), name=f"dynlog-calls-{topic}-{partition}")

    async def close(self, timeout: float = 10.0) -> None:
        """Appends what was taken, for at most so long, and ends."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout)
        finally:
            self._closed = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._room.set()

    async def _run(self, topic: str, partition: int, lane: _Lane) -> None:
        batch: list[_Entry] = []
        try:
            while lane.pending:
                if self.failure is not None or self._closed:
                    raise self.failure or Closed("the calls of this log were closed")
                await self._epoch.enter()
                try:
                    batch = self._take(lane)
                    await self._append(topic, partition, lane, batch)
                finally:
                    self._epoch.leave()
        except asyncio.CancelledError:
            self._settle(batch, None, OutcomeUnknown("closed while it was appended", topic=topic, partition=partition))
            self._settle(list(lane.pending), None, Closed("closed before it was appended"))
            lane.pending.clear()
            raise
        except DynlogError as error:  # fenced, closed, or the epoch could not rise
            self._settle(list(lane.pending), None, error)
            lane.pending.clear()
        finally:
            lane.task = None

    def _take(self, lane: _Lane) -> list[_Entry]:
        pending, batch, size = lane.pending, [lane.pending.popleft()], 0
        size = batch[0].size
        while pending and len(batch) < MAX_RECORDS and size + pending[0].size <= self._max:
            size += pending[0].size
            batch.append(pending.popleft())
        return batch

    async def _append(self, topic: str, partition: int, lane: _Lane, batch: list[_Entry]) -> None:
        producer, epoch, first = self._id, self._epoch.number, lane.sequence
        lane.sequence += len(batch)
        records = [
            Record(entry.parts, entry.key, NO_HEADERS, entry.control, 0, Mark(producer, epoch, first + number))
            for number, entry in enumerate(batch)
        ]
        try:
            done = await deliver(self._log, topic, partition, records, self._policy)
        except ProducerFenced as error:
            self.failure = error
            self._settle(batch, None, error)
        except DynlogError as error:
            if isinstance(error, OutcomeUnknown):
                self._epoch.give_up()
            self._settle(batch, None, error)
        else:
            self._clock.observe(done.log_time_ms)
            self.appends += 1
            self.records += len(batch)
            self._settle(batch, done.offsets, None)

    def _settle(self, batch: list[_Entry], offsets: tuple[int, ...] | None, error: DynlogError | None) -> None:
        for number, entry in enumerate(batch):
            self._used -= entry.size
            if entry.done is not None:
                try:
                    entry.done(-1 if offsets is None else offsets[number], error)
                except Exception:  # a defect of one; the others' outcomes are still to be told
                    _log.exception("what became of a record could not be told")
        batch.clear()
        if self._used <= HIGH_WATER_BYTES or self.failure is not None:
            self._room.set()

    def _count_anew(self) -> None:
        for lane in self._lanes.values():
            lane.sequence = 0
