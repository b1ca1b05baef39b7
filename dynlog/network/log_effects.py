"""Effects of a call on the log: they lie in the record of its outcome, and happen if and only if that is the answer.

Whoever owns the lane appends them where they belong, marked by the outcome's offset and in the order of the outcomes,
soon after the reply; whoever takes over goes on where that one stopped, and what is appended twice is there once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from dynlog.codec import MAX_RECORDS, check_record
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.effects import MAX_EFFECTS, Effect, check_effect
from dynlog.errors import (
    BatchTooLarge,
    ConfigurationError,
    DynlogError,
    MalformedRecord,
    PartitionNotFound,
    TopicNotFound,
)
from dynlog.log import Log
from dynlog.partition import partition_of
from dynlog.record import Control, Mark, Record

SPARE_BYTES = 64 << 10
RECORD_OVERHEAD = 512
NEVER = (TopicNotFound, PartitionNotFound, BatchTooLarge, MalformedRecord)
"""Errors of an append that the same append will always have."""


class Effects:
    """What a handler wants to have happened once its reply is the answer; `append` is all there is to it."""

    __slots__ = ("_list",)

    def __init__(self) -> None:
        self._list: list[Effect] = []

    def __bool__(self) -> bool:
        return bool(self._list)

    def append(self, topic: str, record: Record, *, partition: int | None = None) -> None:
        """The record is in that topic once, if this call's reply is its answer; without ``partition`` its key decides.

        Raises ConfigurationError for a record with a mark or for more than 4,096 effects, MalformedRecord.
        """
        if len(self._list) >= MAX_EFFECTS:
            raise ConfigurationError(f"a call has at most {MAX_EFFECTS} effects")
        check_record(record)
        self._list.append(Effect(topic, check_effect(record), partition))

    async def encode(self, log: Log) -> bytes:
        """As they lie in an outcome; raises TopicNotFound or PartitionNotFound (nowhere to go), BatchTooLarge."""
        most = log.capabilities.max_batch_bytes - SPARE_BYTES
        topics = {name: await log.topic(name) for name in sorted({effect.topic for effect in self._list})}
        rows: list[Any] = []
        for topic, record, partition in self._list:
            if sum(map(len, record.parts)) > most:
                raise BatchTooLarge(f"an effect is over the {most} bytes that one append takes", topic=topic)
            if partition is not None and not 0 <= partition < topics[topic].partitions:
                raise PartitionNotFound(
                    f"an effect goes to a partition that is not there: the topic has {topics[topic].partitions}",
                    topic=topic, partition=partition,
                )  # fmt: skip
            rows.append([
                topic, partition, record.key, dict(record.headers), record.control, record.timestamp_ms,
                [bytes(part) for part in record.parts],
            ])  # fmt: skip
        packed: bytes = msgpack.packb(rows)
        return packed


async def append_all(
    log: Log, producer: str, outcomes: Sequence[tuple[int, bytes]], policy: DeliveryPolicy
) -> list[tuple[str, DynlogError]]:
    """Appends the effects of outcomes, given with their offsets in rising order, each once, whatever was before.

    Those of many outcomes that go to one place leave together.  Returns which topics take some of them never, and why:
    their outcome is the answer all the same, and nobody else's effects may wait for what cannot be.
    """
    places: dict[tuple[str, int], list[Record]] = {}
    lost: list[tuple[str, DynlogError]] = []
    counts: dict[str, int] = {}
    for offset, encoded in outcomes:
        for number, row in enumerate(msgpack.unpackb(encoded)):
            topic, partition, key, headers, control, timestamp_ms, parts = row
            if partition is None:
                try:
                    count = counts.get(topic) or (await log.topic(topic)).partitions
                except NEVER as error:
                    lost.append((topic, error))
                    continue
                counts[topic] = count
                partition = offset % count if key is None else partition_of(key, count)
            mark = Mark(producer, 0, offset * MAX_EFFECTS + number)
            record = Record(tuple(parts), key, headers, Control(control) if control else None, timestamp_ms, mark)
            places.setdefault((topic, partition), []).append(record)
    most = log.capabilities.max_batch_bytes - SPARE_BYTES
    for (topic, partition), records in places.items():
        for together in _appends(records, most):
            try:
                await deliver(log, topic, partition, together, policy)
            except NEVER as error:
                lost += [(topic, error)] * len(together)
    return lost


def _appends(records: Sequence[Record], most: int) -> Iterator[list[Record]]:
    """In order, as many at once as an append takes."""
    together: list[Record] = []
    room = most
    for record in records:
        size = RECORD_OVERHEAD + sum(map(len, record.parts)) + sum(len(n) + len(v) for n, v in record.headers.items())
        if together and (size > room or len(together) >= MAX_RECORDS):
            yield together
            together, room = [], most
        together.append(record)
        room -= size
    yield together
