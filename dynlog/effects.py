"""Effects in the log happen once, however often their cause is handled: their marks are made of the cause.

The producer of an effect is one of 64 *lanes* of (group, topic, partition), chosen by the cause's key; its sequence is
the cause's offset and the effect's number.  A lane is handled strictly in order, so its sequences only rise, and what
is appended a second time is a repeat by mark: dropped inside the append, or by the reader where the engine cannot.

A handler's effects must follow from the record alone, at most 4,096 of them per record.  Marks are remembered for 24 h
of log time after the lane's last effect (`dynlog.marks`).  Where lanes are not
handled in order (``once=False``) effects have no marks and may repeat: a mark would take a late one for a repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import xxhash

from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.partition import partition_of
from dynlog.record import Mark, Record
from dynlog.topics import Topic

LANES = 64
MAX_EFFECTS = 1 << 12


class Cause(NamedTuple):
    """The record whose handling has effects."""

    group: str
    incarnation: str
    partition: int
    offset: int
    key: bytes | None


class Effect(NamedTuple):
    """A record to be appended; without ``partition`` the key decides, or the cause's offset."""

    topic: str
    record: Record
    partition: int | None


def lane_of(key: bytes | None) -> int:
    """The lane of a key; all records without one share lane 0."""
    return 0 if key is None else xxhash.xxh3_64_intdigest(key, seed=1) % LANES


def check_effect(record: Record) -> Record:
    """Raises ConfigurationError for a record with a mark of its own."""
    if record.mark is not None:
        raise ConfigurationError("an effect gets its mark from its cause: give the record without one")
    return record


def marked(cause: Cause, effects: Sequence[Effect], topics: dict[str, Topic]) -> dict[tuple[str, int], list[Record]]:
    """The records to append, per topic and partition, each with the mark that its cause gives it."""
    if len(effects) > MAX_EFFECTS:
        raise ConfigurationError(f"{len(effects)} effects of one record, at most {MAX_EFFECTS} are possible")
    digest = xxhash.xxh3_128_hexdigest(f"{cause.group}\0{cause.incarnation}".encode())
    producer = f"effect:{digest}:{cause.partition}:{lane_of(cause.key)}"
    found: dict[tuple[str, int], list[Record]] = {}
    for number, (name, record, partition) in enumerate(effects):
        if partition is None:
            count = topics[name].partitions
            partition = cause.offset % count if record.key is None else partition_of(record.key, count)
        mark = Mark(producer, 0, cause.offset * MAX_EFFECTS + number)
        found.setdefault((name, partition), []).append(replace(record, mark=mark))
    return found


async def append_effects(
    log: Log, cause: Cause, effects: Sequence[Effect], policy: DeliveryPolicy, *, once: bool
) -> None:
    """Appends them all; with ``once`` each is stored once, whatever was before.  Raises what `deliver` raises."""
    topics = {name: await log.topic(name) for name in sorted({effect.topic for effect in effects})}
    for (name, partition), records in marked(cause, effects, topics).items():
        if not once:
            records = [replace(record, mark=None) for record in records]
        await deliver(log, name, partition, records, policy)
