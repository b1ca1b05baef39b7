"""A producer: every record that it takes is stored once, in order within its partition, or its ticket says why not.

`submit` takes a record and gives a ticket; what is submitted while an append of the same partition is under way goes
into the next one (group commit, no linger).  One append per partition is under way at a time, so nothing overtakes a
batch whose outcome is unknown; that batch goes on being retried although whoever waited for its ticket was cancelled.
If it has to be given up, the epoch rises, so that a copy of it that is still on its way is refused.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from dataclasses import replace
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self

from dynlog.budget import Budget
from dynlog.codec import MAX_RECORDS, check_record, encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.epoch import Epoch
from dynlog.errors import (
    BatchTooLarge,
    Closed,
    DynlogError,
    LogUnavailable,
    OutcomeUnknown,
    PartitionNotFound,
    ProducerFenced,
)
from dynlog.log import Log
from dynlog.partition import keyless_partitions, partition_of
from dynlog.record import Mark, Record
from dynlog.tickets import Stored, Ticket
from dynlog.topics import Appended, Topic, check_name

logger = logging.getLogger(__name__)
MAX_UNACKNOWLEDGED_BYTES = 8 << 20
PAYLOAD_OVERHEAD = 64
"""An upper bound of what a payload has beside its records."""


class _State(Enum):
    OPEN = "open"
    DRAINING = "draining"
    FENCED = "fenced"
    CLOSED = "closed"


class _Entry(NamedTuple):
    record: Record
    ticket: Ticket
    size: int


class _Lane:
    """What waits for one partition, and the task that appends it."""

    __slots__ = ("last", "missing", "pending", "sequence", "task")

    def __init__(self) -> None:
        self.pending: deque[_Entry] = deque()
        self.sequence = 0
        self.task: asyncio.Task[None] | None = None
        self.last: Ticket | None = None
        self.missing: dict[tuple[str, int], int] = {}  # first sequence that was not stored, per foreign source


class Producer:
    """Appends to one topic; an async context manager whose exit waits for every ticket.

    ``producer_id`` names it across restarts: opening it again fences the old one.  Without a name it gets one of its
    own.  Records that bring a mark (a foreign source's) keep it.  At most ``max_unacknowledged_bytes`` are taken
    without being durable; `submit` waits for room.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        *,
        producer_id: str | None = None,
        max_unacknowledged_bytes: int = MAX_UNACKNOWLEDGED_BYTES,
        policy: DeliveryPolicy | None = None,
    ) -> None:
        self.producer_id = check_name("producer", producer_id or f"producer-{uuid.uuid4().hex}")
        self._log = log
        self._name = topic
        self._policy = policy or DeliveryPolicy()
        self._budget = Budget(max_unacknowledged_bytes)
        self._lanes: dict[int, _Lane] = {}
        self._state = _State.CLOSED
        self._topic: Topic | None = None
        self._epoch = Epoch(log, self.producer_id, self._policy, self._count_anew, sole=producer_id is None)
        self._failure: tuple[Ticket, DynlogError] | None = None

    @property
    def epoch(self) -> int:
        """The epoch under which it writes now."""
        return self._epoch.number

    async def __aenter__(self) -> Self:
        self._topic = await self._log.topic(self._name)
        self._keyless = keyless_partitions(self._topic.partitions)
        await self._epoch.register()
        self._max_batch = self._log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
        self._state = _State.OPEN
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except DynlogError:
            if error is None:
                raise

    async def submit(self, record: Record, *, partition: int | None = None) -> Ticket:
        """Takes the record, waiting while too much is unacknowledged, and returns its ticket.

        The partition is the given one, else the key's, else the next in turn.  A cancelled submit has taken nothing.
        Raises MalformedRecord, BatchTooLarge, PartitionNotFound, ProducerFenced, Closed.
        """
        self._check_open()
        assert self._topic is not None
        check_record(record)
        size = encoded_bound(record) + (0 if record.mark else 40 + 4 * len(self.producer_id))
        if size > self._max_batch:
            raise BatchTooLarge(
                f"a record of up to {size} bytes is over the {self._max_batch} that one append may have: nothing was "
                "stored; put large bodies into an object store",
                topic=self._name,
            )
        if partition is None:
            partition = next(self._keyless) if record.key is None else partition_of(record.key, self._topic.partitions)
        elif not 0 <= partition < self._topic.partitions:
            raise PartitionNotFound(
                f"the topic has partitions 0 to {self._topic.partitions - 1}", topic=self._name, partition=partition
            )
        await self._budget.take(size)
        try:
            self._check_open()
        except DynlogError:
            self._budget.give(size)
            raise
        lane = self._lanes.setdefault(partition, _Lane())
        ticket = Ticket()
        lane.pending.append(_Entry(record, ticket, size))
        lane.last = ticket
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(partition, lane), name=f"dynlog-producer-{partition}")
        return ticket

    async def send(self, record: Record, *, partition: int | None = None) -> Stored:
        """Submits the record and waits until it is durable."""
        return await (await self.submit(record, partition=partition))

    async def flush(self) -> None:
        """Waits until the outcome of everything submitted before is known.

        Raises the first failure whose ticket nobody has awaited.
        """
        for lane in list(self._lanes.values()):
            if lane.last is not None:
                await lane.last.settled()
        failure, self._failure = self._failure, None
        if failure is not None and not failure[0].observed:
            raise failure[1]

    async def close(self, timeout: float | None = None) -> None:
        """Stops taking, waits for what was taken, and ends; raises like `flush`.

        After ``timeout`` seconds (by default, as long as the delivery policy allows) it gives up: tickets that are
        still open then fail with OutcomeUnknown.  Closing twice is harmless.
        """
        if self._state in (_State.OPEN, _State.FENCED):
            self._state = _State.DRAINING
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._state = _State.CLOSED
            self._budget.close()
        await self.flush()

    def _check_open(self) -> None:
        if self._state is _State.FENCED:
            raise ProducerFenced(f"producer {self.producer_id!r} was opened elsewhere", topic=self._name)
        if self._state is not _State.OPEN:
            raise Closed(f"producer {self.producer_id!r} is not open")

    async def _run(self, partition: int, lane: _Lane) -> None:
        """Appends until nothing waits; whatever happens, every ticket gets its outcome."""
        batch: list[_Entry] = []
        try:
            while lane.pending:
                await self._epoch.enter()
                try:
                    batch = self._take(lane)
                    await self._append(partition, batch, lane)
                finally:
                    self._epoch.leave()
        except asyncio.CancelledError:
            self._fail(
                batch, OutcomeUnknown("the producer was closed meanwhile", topic=self._name, partition=partition)
            )
            self._fail(list(lane.pending), Closed(f"producer {self.producer_id!r} was closed before sending"))
            raise
        except ProducerFenced as error:
            self._state = _State.FENCED
            self._fail(list(lane.pending), error)
        except DynlogError as error:  # the epoch could not rise
            self._fail(list(lane.pending), error)
        except Exception as error:  # a defect; nobody is to wait for ever because of it
            logger.exception("producer %s: an append failed", self.producer_id)
            broken = OutcomeUnknown(f"the append failed: {error!r}", topic=self._name, partition=partition)
            self._fail([*batch, *lane.pending], broken)
        finally:
            lane.pending.clear()
            lane.task = None

    def _take(self, lane: _Lane) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while lane.pending and len(batch) < MAX_RECORDS and size + lane.pending[0].size <= self._max_batch:
            entry = lane.pending.popleft()
            mark = entry.record.mark
            if mark is None:
                mark = Mark(self.producer_id, self._epoch.number, lane.sequence)
                entry = entry._replace(record=replace(entry.record, mark=mark))
                lane.sequence += 1
            elif (missing := lane.missing.get(mark[:2])) is not None and mark.sequence > missing:
                self._fail([entry], self._out_of_turn(mark, missing))
                continue
            batch.append(entry)
            size += entry.size
        return batch

    def _out_of_turn(self, mark: Mark, missing: int) -> LogUnavailable:
        return LogUnavailable(
            f"sequence {mark.sequence} of source {mark.producer_id!r} was not sent: {missing} before it was not stored "
            "and would be taken for a repeat afterwards; send that one again first",
            topic=self._name,
        )

    async def _append(self, partition: int, batch: list[_Entry], lane: _Lane) -> None:
        if not batch:
            return
        try:
            done = await deliver(self._log, self._name, partition, [entry.record for entry in batch], self._policy)
        except ProducerFenced as error:
            owners = {entry.record.mark.producer_id for entry in batch if entry.record.mark}
            if len(owners) > 1:  # one source's zombie must not take the others' records with it
                for owner in sorted(owners):
                    of_owner = [e for e in batch if e.record.mark and e.record.mark.producer_id == owner]
                    await self._append(partition, of_owner, lane)
                return
            if owners == {self.producer_id}:
                self._state = _State.FENCED
                self._fail(list(lane.pending), error)
                lane.pending.clear()
            self._fail(batch, error)
        except DynlogError as error:
            if isinstance(error, OutcomeUnknown):
                self._epoch.give_up()
            self._remember(batch, lane)
            self._fail(batch, error)
        else:
            self._resolve(batch, done)
            for entry in batch if lane.missing else ():
                if entry.record.mark is not None:
                    lane.missing.pop(entry.record.mark[:2], None)

    def _remember(self, batch: list[_Entry], lane: _Lane) -> None:
        """Which foreign sequences are missing: the source's later ones must not go before them."""
        for entry in batch:
            mark = entry.record.mark
            if mark is not None and mark.producer_id != self.producer_id:
                lane.missing.setdefault(mark[:2], mark.sequence)

    def _count_anew(self) -> None:
        for lane in self._lanes.values():
            lane.sequence = 0

    def _resolve(self, batch: list[_Entry], done: Appended) -> None:
        for entry, offset in zip(batch, done.offsets, strict=True):
            entry.ticket.resolve(Stored(done.partition, offset))
            self._budget.give(entry.size)

    def _fail(self, batch: list[_Entry], error: DynlogError) -> None:
        for entry in batch:
            if entry.ticket.done:
                continue
            entry.ticket.fail(error)
            self._budget.give(entry.size)
            if self._failure is None or self._failure[0].observed:
                self._failure = (entry.ticket, error)
