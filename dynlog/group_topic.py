"""A consumer group's own topic: found by group and topic, bounded by pictures of the state, read by whoever asks.

Its name holds the incarnation of the topic that is consumed: a topic that is created anew has groups that start anew.
"""

from __future__ import annotations

import asyncio

import xxhash

from dynlog.batch import Position, StoredRecord
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import MalformedRecord, OffsetTruncated, SnapshotCorrupt
from dynlog.group import GroupFold
from dynlog.group_records import Fact, Picture, from_record, to_record
from dynlog.log import Log
from dynlog.topics import Topic, check_name

GROUP_LABEL = "dynlog.group"
TOPIC_LABEL = "dynlog.group-topic"
INCARNATION_LABEL = "dynlog.group-incarnation"
KEPT_RECORDS = 1_000
"""A picture is taken, and what lies below it removed, once this many records have come since the last."""
SAYING = DeliveryPolicy(timeout_s=10.0, attempt_timeout_s=3.0)


def group_topic(topic: Topic, group: str) -> str:
    """The name of the group's own topic."""
    check_name("group", group)
    digest = xxhash.xxh3_64_hexdigest("\0".join((topic.name, topic.incarnation, group)).encode())
    return f"dynlog.groups.{group[:200]}.{digest}"


def is_internal(topic: Topic) -> bool:
    """Whether dynlog made the topic for a group, so that nobody wants it copied or consumed."""
    return GROUP_LABEL in topic.labels


async def make_group_topic(log: Log, topic: Topic, group: str) -> Topic:
    """The group's own topic, created if there is none."""
    labels = {GROUP_LABEL: group, TOPIC_LABEL: topic.name, INCARNATION_LABEL: topic.incarnation}
    return await log.create_topic(group_topic(topic, group), labels=labels, exist_ok=True)


async def say(log: Log, name: str, fact: Fact) -> int:
    """Appends a fact and returns its offset; raises what `deliver` raises."""
    return (await deliver(log, name, 0, [to_record(fact)], SAYING)).offsets[0]


async def load(log: Log, name: str) -> tuple[GroupFold, Position]:
    """The state at the end, and the end: the newest picture and what came since, or everything from the start.

    Raises TopicNotFound.
    """
    while True:
        position = await log.position(name, 0)
        records: list[StoredRecord] = []
        try:
            while True:
                batch = await log.read(position)
                records += batch
                position = batch.next_position
                if batch.next_offset >= batch.end_offset:
                    return fold(records), position
        except OffsetTruncated:
            await asyncio.sleep(0)  # a picture was taken meanwhile: from the new start


def fold(records: list[StoredRecord]) -> GroupFold:
    """The state after those records, which may begin with a picture's remains."""
    state, covers = GroupFold(), -1
    for stored in reversed(records):
        try:
            fact = from_record(stored.record)
            if isinstance(fact, Picture):
                state.restore([fact.state])
                covers = fact.covers
                break
        except (MalformedRecord, SnapshotCorrupt):
            continue
    for stored in records:
        if stored.offset >= covers:
            state.apply_one(stored)
    return state


async def take_picture(log: Log, position: Position, state: GroupFold) -> None:
    """Stores the state as of ``position`` and removes what lies below."""
    picture = Picture(position.offset, b"".join(state.snapshot()))
    await say(log, position.topic, picture)
    await log.truncate(position.topic, 0, position.offset)


async def find_group_topics(log: Log, topic: str | None = None) -> list[Topic]:
    """The topics of all groups (of one topic)."""
    return [t for t in await log.topics() if is_internal(t) and (topic is None or t.labels.get(TOPIC_LABEL) == topic)]


async def find_orphans(log: Log, topic: str | None = None) -> list[Topic]:
    """The topics of groups whose topic was deleted, or created anew since: nothing reads them any more."""
    found = await find_group_topics(log, topic)
    known = {t.name: t.incarnation for t in await log.topics()}  # asked afterwards: what is not there now was deleted
    return [t for t in found if t.labels.get(INCARNATION_LABEL) != known.get(t.labels.get(TOPIC_LABEL, ""))]
