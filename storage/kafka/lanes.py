"""An append is one Kafka batch or part of one, so it is stored whole or not at all; nothing of a partition overtakes.

Each partition has a lane: while one batch is on its way, what arrives queues and then leaves together in the next one.
A batch that got no answer is sent again with the same producer id and sequence, which the broker stores once
(Kafka's idempotent producer), until the last of its callers' deadlines.  A batch that was given up may still arrive:
the lane then goes on under a new producer id.  A cancelled caller's append leaves the queue, or, once sent, goes on.

An append that is for one incarnation only goes by that topic id, which the broker checks as it stores, in a batch with
its like alone.  Kafka before 4.1 takes appends by name only: the topic is looked at just before each attempt, and a
successor that is made in the milliseconds between that look and the append gets it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from dynlog.budget import Budget
from dynlog.errors import Closed, ConfigurationError, DynlogError, LogUnavailable, OutcomeUnknown, TopicNotFound
from dynlog.storage.kafka.cluster import BACKOFF, Cluster
from dynlog.storage.kafka.failures import (
    GONE,
    LOST_SEQUENCE,
    NOT_STORED,
    TRANSIENT,
    NoAnswer,
    NotSent,
    name_of,
    refused,
)
from dynlog.storage.kafka.messages import Message
from dynlog.storage.kafka.protocol import NamesOnly, ProduceByIdRequest
from dynlog.storage.kafka.wires import ANSWER_S, Purpose
from dynlog.timing import SYSTEM_CLOCK, Deadline

QUEUED_BYTES = 64 << 20
CLOSE_S = 5.0
_ACKS_ALL = -1
_SEQUENCES = 1 << 31
_ANY_SIZE = _SEQUENCES - 1


class Stored(NamedTuple):
    """Where a batch was stored, and when by the broker's clock."""

    base: int
    log_time_ms: int


class _Identity(NamedTuple):
    producer_id: int
    epoch: int


@dataclass(slots=True, eq=False)
class _Waiting:
    """An append in a lane."""

    messages: Sequence[Message]
    size: int
    deadline: Deadline
    outcome: asyncio.Future[Stored]
    topic_id: bytes | None = None
    sent: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """A partition's queue and its count of sequences."""

    name: str
    partition: int
    queue: deque[_Waiting] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    identity: _Identity | None = None
    sequence: int = 0


class Lanes:
    """All lanes of one log handle; owns their tasks."""

    def __init__(self, cluster: Cluster, *, max_batch_bytes: int, compression: int) -> None:
        self._cluster = cluster
        self._max_batch_bytes = max_batch_bytes
        self._compression = compression
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._budget = Budget(QUEUED_BYTES)
        self._shared: _Identity | None = None
        self._closed = False

    async def append(
        self,
        name: str,
        partition: int,
        messages: Sequence[Message],
        size: int,
        deadline: Deadline,
        topic_id: bytes | None = None,
    ) -> Stored:
        """Stores the messages next to each other, with a ``topic_id`` in that incarnation of the topic only.

        Raises LogUnavailable if they surely were not stored, OutcomeUnknown if that is not known, TopicNotFound if the
        brokers do not know the topic (any more), BatchTooLarge, ConfigurationError, Closed.
        """
        try:
            # A timer costs more than the taking, and while half is free nobody can be waiting.
            if self._budget.used + size > QUEUED_BYTES // 2:
                async with asyncio.timeout(deadline.remaining):
                    await self._budget.take(size)
            else:
                await self._budget.take(size)
        except TimeoutError:
            raise self._never_sent(name, partition) from None
        try:
            return await self._queued(name, partition, messages, size, deadline, topic_id)
        finally:
            self._budget.give(size)

    async def _queued(
        self,
        name: str,
        partition: int,
        messages: Sequence[Message],
        size: int,
        deadline: Deadline,
        topic_id: bytes | None,
    ) -> Stored:
        if self._closed:
            raise Closed("the log was closed")
        lane = self._lanes.setdefault((name, partition), _Lane(name, partition))
        waiting = _Waiting(messages, size, deadline, asyncio.get_running_loop().create_future(), topic_id)
        lane.queue.append(waiting)
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(lane), name=f"dynlog-kafka-lane-{name}-{partition}")
        try:
            await asyncio.wait([waiting.outcome], timeout=deadline.remaining)
            if waiting.outcome.done():
                return waiting.outcome.result()
        finally:
            if not waiting.outcome.done():
                waiting.outcome.cancel()  # the lane passes over it if it was not sent
            elif not waiting.outcome.cancelled():
                waiting.outcome.exception()  # a cancelled caller does not ask for it, and asyncio would complain
        if waiting.sent:
            raise OutcomeUnknown("no answer in time: it may be stored", topic=name, partition=partition)
        raise self._never_sent(name, partition)

    def _never_sent(self, name: str, partition: int) -> LogUnavailable:
        return LogUnavailable(
            "appends queue behind one that gets no answer; nothing of this one was sent",
            topic=name,
            partition=partition,
        )

    async def _run(self, lane: _Lane) -> None:
        """Sends what is queued until nothing is; every append in it gets an outcome."""
        group: list[_Waiting] = []
        try:
            while group := self._next_group(lane):
                await self._deliver(lane, group)
        except asyncio.CancelledError:
            self._fail(group, self._judged(lane, Closed("the log was closed"), NoAnswer("the log was closed")))
            self._fail(lane.queue, Closed("the log was closed"))
            raise
        except Exception as error:
            self._fail([*group, *lane.queue], error)
            raise
        finally:
            lane.task = None

    def _next_group(self, lane: _Lane) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while lane.queue:
            waiting = lane.queue[0]
            if waiting.outcome.done():
                lane.queue.popleft()
                continue
            if group and (size + waiting.size > self._max_batch_bytes or waiting.topic_id != group[0].topic_id):
                break
            group.append(lane.queue.popleft())
            size += waiting.size
        for waiting in group:
            waiting.sent = True
        return group

    async def _deliver(self, lane: _Lane, group: Sequence[_Waiting]) -> None:
        """One batch until its fate is known or its time is over."""
        deadline = max((waiting.deadline for waiting in group), key=lambda deadline: deadline.remaining)
        try:
            base, log_time_ms = await self._stored(lane, group, deadline)
        except DynlogError as error:
            if isinstance(error, OutcomeUnknown):
                lane.identity = self._shared = None  # it may still arrive: nothing may take its sequence
            self._fail(group, error)
        else:
            lane.sequence = (lane.sequence + sum(len(waiting.messages) for waiting in group)) % _SEQUENCES
            self._succeed(group, base, log_time_ms)

    async def _stored(self, lane: _Lane, group: Sequence[_Waiting], deadline: Deadline) -> Stored:
        """Sends one batch until it is stored; OutcomeUnknown if it was given up after an attempt that may have been."""
        topic_id = group[0].topic_id
        ambiguous: DynlogError | None = None
        batch: bytes | None = None
        for pause in BACKOFF:
            try:
                if lane.identity is None:
                    lane.identity, lane.sequence, batch = await self._identity(deadline), 0, None
                batch = batch or self._batch(lane, lane.identity, group)
                code, stored = await self._produce(lane, batch, topic_id, deadline)
            except LogUnavailable as error:
                self._cluster.forget(lane.name)
                last: DynlogError = error
                ambiguous = error if isinstance(error, NoAnswer) else ambiguous
            except (ConfigurationError, TopicNotFound, Closed) as error:
                raise self._judged(lane, error, ambiguous) from error
            else:
                if code == 0:
                    return stored
                last = refused(code, "an append", topic=lane.name, partition=lane.partition)
                if code in LOST_SEQUENCE and ambiguous is None:
                    lane.identity = self._shared = None
                elif code not in TRANSIENT:
                    raise self._judged(lane, last, ambiguous)
                self._cluster.forget(lane.name)
                if code in GONE:
                    try:
                        await self._check_there(lane, topic_id, deadline)
                    except TopicNotFound as gone:
                        raise self._judged(lane, gone, ambiguous) from None
                if code not in NOT_STORED and code not in LOST_SEQUENCE:
                    ambiguous = last
            if deadline.remaining <= pause:
                raise self._judged(lane, last, ambiguous)
            await asyncio.sleep(pause)
        raise AssertionError("a backoff never ends")

    async def _produce(
        self, lane: _Lane, batch: bytes, topic_id: bytes | None, deadline: Deadline
    ) -> tuple[int, Stored]:
        """Error code and place of one attempt."""
        node = await self._cluster.leader(lane.name, lane.partition, deadline)
        if node is None:
            await self._check_there(lane, topic_id, deadline)
            raise NotSent("the partition has no leader now", topic=lane.name, partition=lane.partition)
        timeout_ms = round(min(deadline.remaining, ANSWER_S) * 1000) + 1
        answer: Any = None
        if topic_id is not None:
            by_id = ProduceByIdRequest(topic_id, lane.partition, batch, timeout_ms)
            try:
                answer = await self._cluster.ask_node(node, Purpose.APPEND, by_id, deadline)
            except NamesOnly:
                await self._check_there(lane, topic_id, deadline)
        if answer is None:
            request = ProduceRequest(None, _ACKS_ALL, timeout_ms, [(lane.name, [(lane.partition, batch)])])
            answer = await self._cluster.ask_node(node, Purpose.APPEND, request, deadline)
        ((_, ((_, code, base, log_time_ms, *_),), *_),) = answer.topics
        return code, Stored(base, log_time_ms)

    async def _check_there(self, lane: _Lane, topic_id: bytes | None, deadline: Deadline) -> None:
        """Raises TopicNotFound if the brokers do not know the topic, or only another incarnation than is meant."""
        place = (await self._cluster.describe([lane.name], deadline)).get(lane.name)
        if place is None:
            raise TopicNotFound("the brokers do not know the topic", topic=lane.name)
        if topic_id is not None and place.id != topic_id:
            raise TopicNotFound(
                f"the topic was deleted and created anew: it is incarnation {place.incarnation} now", topic=lane.name
            )

    async def _identity(self, deadline: Deadline) -> _Identity:
        """A producer id whose count in this lane has not begun.  Lanes share one until one of them has to leave it."""
        if self._shared is None:
            answer = await self._cluster.ask_any(InitProducerIdRequest(None, 0), deadline)
            if answer.error_code in TRANSIENT:
                raise NotSent(f"no producer id: {name_of(answer.error_code)}")
            if answer.error_code:
                raise refused(answer.error_code, "a producer id")
            self._shared = _Identity(answer.producer_id, answer.producer_epoch)
        return self._shared

    def _batch(self, lane: _Lane, identity: _Identity, group: Sequence[_Waiting]) -> bytes:
        builder = DefaultRecordBatchBuilder(
            magic=2, compression_type=self._compression, is_transactional=0, producer_id=identity.producer_id,
            producer_epoch=identity.epoch, base_sequence=lane.sequence, batch_size=_ANY_SIZE,
        )  # fmt: skip
        add, now, offset = builder.append, SYSTEM_CLOCK.time_ms(), 0
        for waiting in group:
            for key, value, headers in waiting.messages:
                add(offset, now, key, value, headers)
                offset += 1
        return bytes(builder.build())

    @staticmethod
    def _judged(lane: _Lane, error: DynlogError, ambiguous: DynlogError | None) -> DynlogError:
        """What to tell about a batch that is given up for ``error``."""
        if ambiguous is None:
            return error
        return OutcomeUnknown(
            f"it may or may not be stored ({ambiguous}); repeat it under the same marks, or read the topic",
            topic=lane.name,
            partition=lane.partition,
        )

    @staticmethod
    def _succeed(group: Sequence[_Waiting], base: int, log_time_ms: int) -> None:
        for waiting in group:
            if not waiting.outcome.done():
                waiting.outcome.set_result(Stored(base, log_time_ms))
            base += len(waiting.messages)

    @staticmethod
    def _fail(group: Iterable[_Waiting], error: Exception) -> None:
        for waiting in group:
            if not waiting.outcome.done():
                waiting.outcome.set_exception(error)

    def leave(self, name: str) -> None:
        """Forgets the lanes of a topic that is gone."""
        for key in [key for key, lane in self._lanes.items() if key[0] == name and lane.task is None]:
            del self._lanes[key]

    async def close(self) -> None:
        """Lets what was accepted finish, for a moment; then nothing more is sent."""
        self._closed = True
        self._budget.close()
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
