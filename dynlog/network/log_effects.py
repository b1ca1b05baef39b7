"""Effects of a call on the log: they lie in the record of its outcome, and happen if and only if that is the answer.

Whoever owns the lane appends them where they belong, marked by the outcome's offset and in the order of the outcomes,
soon after the reply; whoever takes over goes on where that one stopped, and what is appended twice is there once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack

from dynlog.codec import check_record
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.effects import MAX_EFFECTS, Effect, check_effect
from dynlog.errors import BatchTooLarge, ConfigurationError
from dynlog.log import Log
from dynlog.partition import partition_of
from dynlog.record import Control, Mark, Record


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
        """As they lie in an outcome; raises TopicNotFound if one has nowhere to go, BatchTooLarge."""
        most = log.capabilities.max_batch_bytes - (64 << 10)
        for name in {effect.topic for effect in self._list}:
            await log.topic(name)
        rows: list[Any] = []
        for topic, record, partition in self._list:
            if sum(map(len, record.parts)) > most:
                raise BatchTooLarge(f"an effect is over the {most} bytes that one append takes", topic=topic)
            rows.append([
                topic, partition, record.key, dict(record.headers), record.control, record.timestamp_ms,
                [bytes(part) for part in record.parts],
            ])  # fmt: skip
        packed: bytes = msgpack.packb(rows)
        return packed


async def append_all(log: Log, producer: str, offset: int, encoded: bytes, policy: DeliveryPolicy) -> None:
    """Appends the effects of the outcome at that offset, each once, whatever was before."""
    for number, (topic, partition, key, headers, control, timestamp_ms, parts) in enumerate(msgpack.unpackb(encoded)):
        record = Record(tuple(parts), key, headers, Control(control) if control else None, timestamp_ms)
        count = (await log.topic(topic)).partitions
        if partition is None:
            partition = offset % count if key is None else partition_of(key, count)
        marked = replace(record, mark=Mark(producer, 0, offset * MAX_EFFECTS + number))
        await deliver(log, topic, partition, [marked], policy)
