"""What is done to a consumer group from outside: look, measure its lag, move it, forget it.

* **Lag** counts records (holes with them) and log time, from the group's position to the end.
* **A seek opens a new generation**, so nobody commits over it.  While members are alive it is refused, unless forced:
  then it is announced to them and they start over from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from dynlog.batch import Position
from dynlog.errors import ConfigurationError, GroupBusy, LogDiverged, OffsetTruncated, TopicNotFound
from dynlog.group import GroupFold
from dynlog.group_records import Generation
from dynlog.group_topic import (
    GROUP_LABEL,
    INCARNATION_LABEL,
    TOPIC_LABEL,
    find_group_topics,
    find_orphans,
    group_topic,
    load,
    say,
)
from dynlog.log import Log
from dynlog.membership import GroupTiming
from dynlog.timing import Deadline
from dynlog.topics import PartitionState, Topic

HOLDER_PREFIX = "group:"
EXPIRE_S = GroupTiming().expire_s
SEEK_TRIES = 5


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind in one partition; ``seconds`` of log time between its position and the last record."""

    partition: int
    position: int
    end: int
    records: int
    seconds: float
    member: str | None = None


@dataclass(frozen=True, slots=True)
class GroupPicture:
    """A group on a topic as it is now; ``members`` by id with what they say of themselves.

    An ``orphaned`` one is what is left of a group whose topic was deleted, or created anew since.
    """

    group: str
    topic: str
    generation: int
    members: Mapping[str, str]
    lags: tuple[Lag, ...]
    orphaned: bool = False


async def list_groups(log: Log, topic: str | None = None) -> list[tuple[str, str]]:
    """(topic, group) of every group that has members, or a position that keeps records."""
    known = {t.name: t.incarnation for t in await log.topics() if topic is None or t.name == topic}
    found = {
        (t.labels[TOPIC_LABEL], t.labels[GROUP_LABEL])
        for t in await find_group_topics(log, topic)  # not those of a topic that was deleted, or created anew since
        if t.labels.get(INCARNATION_LABEL) == known.get(t.labels[TOPIC_LABEL])
    }
    for name in known:
        for state in await log.holders(name):
            if state.holder.name.startswith(HOLDER_PREFIX):
                found.add((name, state.holder.name.removeprefix(HOLDER_PREFIX)))
    return sorted(found)


async def describe_groups(log: Log, topic: str | None = None, group: str | None = None) -> list[GroupPicture]:
    """`describe_group` of all groups (on one topic, or of one name); one that is removed meanwhile is left out."""
    pictures = []
    for name, one in await list_groups(log, topic):
        if group is None or one == group:
            with suppress(TopicNotFound, ConfigurationError):
                pictures.append(await describe_group(log, name, one))
    return pictures


async def describe_group(log: Log, topic: str, group: str) -> GroupPicture:
    """Members and lag; raises TopicNotFound, ConfigurationError if there never was such a group."""
    info = await log.topic(topic)
    state = await _fold_of(log, info, group)
    committed = await log.committed(group, topic)
    if state is None and not committed.positions:
        raise ConfigurationError(f"topic {topic!r} has no group {group!r}; 'dynlog group list' shows those that it has")
    state = state or GroupFold()
    lags = [
        await _lag(log, info, part, committed.positions.get(part.partition), state.owners.get(part.partition))
        for part in await log.partitions(topic)
    ]
    members = {member.id: member.about for member in state.members.values()}
    return GroupPicture(group, topic, committed.generation, members, tuple(lags))


async def orphaned_groups(log: Log, topic: str | None = None) -> list[GroupPicture]:
    """What is left of groups whose topic (or that one) was deleted or created anew; `list_groups` leaves them out."""
    return [_orphan(found) for found in await find_orphans(log, topic)]


async def remove_orphans(log: Log, topic: str | None = None) -> list[GroupPicture]:
    """Removes what `orphaned_groups` finds, and nothing of a living group of the same name; gives what it removed."""
    removed = []
    for found in await find_orphans(log, topic):
        with suppress(TopicNotFound):
            await log.delete_topic(found.name)
            removed.append(_orphan(found))
    return removed


def _orphan(found: Topic) -> GroupPicture:
    return GroupPicture(found.labels[GROUP_LABEL], found.labels.get(TOPIC_LABEL, ""), 0, {}, (), orphaned=True)


async def _lag(log: Log, topic: Topic, part: PartitionState, position: int | None, member: str | None) -> Lag:
    at = part.earliest if position is None else position
    records, seconds = part.end - at, 0.0
    if records > 0:
        try:
            where = Position(topic.name, topic.incarnation, part.partition, max(at, part.earliest))
            batch = await log.read(where, max_records=1)
        except OffsetTruncated:  # it was truncated this very moment
            return Lag(part.partition, at, part.end, records, seconds, member)
        if len(batch):
            seconds = max(part.last_log_time_ms - batch.log_times[0], 0) / 1000
    return Lag(part.partition, at, part.end, records, seconds, member)


async def _fold_of(log: Log, topic: Topic, group: str) -> GroupFold | None:
    try:
        return (await load(log, group_topic(topic, group)))[0]
    except TopicNotFound:
        return None


async def live_members(log: Log, topic: str, group: str, *, patience: float = EXPIRE_S) -> list[str]:
    """Members of which a sign of life comes within ``patience`` seconds; returns at once if there are none at all."""
    info = await log.topic(topic)
    try:
        state, position = await load(log, group_topic(info, group))
    except TopicNotFound:
        return []
    before = {member.id: member.beat for member in state.members.values()}
    deadline = Deadline(patience)
    while before and not deadline.passed:
        try:
            batch = await log.read(position, wait=deadline.remaining)
        except OffsetTruncated:
            state, position = await load(log, position.topic)
        else:
            state.apply(batch)
            position = batch.next_position
        alive = [m.id for m in state.members.values() if m.beat > before.get(m.id, -1)]
        if alive:
            return alive
        await asyncio.sleep(0)
    return []


async def seek(log: Log, topic: str, group: str, positions: Mapping[int, int], *, force: bool = False) -> None:
    """Lets the group go on from those offsets; partitions that are not named stay.

    Raises GroupBusy while members are alive unless ``force``; LogDiverged beyond the end, OffsetTruncated below the
    start, PartitionNotFound.
    """
    info = await log.topic(topic)
    states = {state.partition: state for state in await log.partitions(topic)}
    for partition, offset in positions.items():
        part = states.get(partition)
        if part is not None and offset < part.earliest:
            raise OffsetTruncated(
                f"the earliest offset that is left is {part.earliest}",
                topic=topic, partition=partition, offset=offset, earliest=part.earliest,
            )  # fmt: skip
        if part is not None and offset > part.end:
            raise LogDiverged(
                f"it lies beyond the end, which is {part.end}", topic=topic, partition=partition, offset=offset
            )
    await _refuse_if_alive(log, topic, group, force)
    for _ in range(SEEK_TRIES):
        kept = (await log.committed(group, topic)).positions
        number = await log.open_generation(group, topic, {**kept, **positions})
        if await _announce(log, info, group, number):
            return
    raise GroupBusy(
        "its members opened newer generations all the while and may have gone on where they were: seek again",
        topic=topic,
    )


async def _announce(log: Log, topic: Topic, group: str, number: int) -> bool:
    """Whether the members start over; not if they heard of a newer generation first, under which they may commit."""
    name = group_topic(topic, group)
    try:
        before, position = await load(log, name)
    except TopicNotFound:
        return True
    # It fences whoever was expired before: their generation is older than this one.
    await say(log, name, Generation(number, position.offset, True))
    after, _ = await load(log, name)
    return after.seeks > before.seeks


async def offsets_at(log: Log, topic: str, where: int | str, *, by_time: bool = False) -> dict[int, int]:
    """Per partition the offset of ``earliest`` or ``end``, or of the first record at or after a log time in ms."""
    states = await log.partitions(topic)
    if by_time:
        return {s.partition: await log.offset_at(topic, s.partition, int(where)) for s in states}
    if where == "earliest":
        return {s.partition: s.earliest for s in states}
    return {s.partition: s.end for s in states}


async def remove_group(log: Log, topic: str, group: str, *, force: bool = False) -> None:
    """Forgets the group on the topic: its positions, its hold on records, its members' talk.

    Raises GroupBusy while members are alive unless ``force``: then they end with an error.  Of a topic that was
    deleted, or created anew, it removes what its group left.
    """
    own = [t.name for t in await find_group_topics(log, topic) if t.labels[GROUP_LABEL] == group]
    left_over = False
    try:
        await describe_group(log, topic, group)
        await _refuse_if_alive(log, topic, group, force)
    except (TopicNotFound, ConfigurationError):
        if not own:
            raise
        left_over = True
    for name in own:
        with suppress(TopicNotFound):
            await log.delete_topic(name)
    if not left_over:
        await log.open_generation(group, topic, {})
        await log.release(topic, HOLDER_PREFIX + group)


async def _refuse_if_alive(log: Log, topic: str, group: str, force: bool) -> None:
    alive = [] if force else await live_members(log, topic, group)
    if alive:
        others = f" and {len(alive) - 1} more" if len(alive) > 1 else ""
        raise GroupBusy(
            f"group {group!r} has a live member, {alive[0]}{others}: stop them first, or force it and "
            "they start over from there",
            topic=topic,
        )
