"""What every engine that checks marks and holders itself must decide alike; pure functions over plain data.

* **An append is judged whole before anything is stored**: one fenced record refuses all of it, and repeats (also
  within the append itself) are left out and told their first offsets.
* **Truncation stops at the slowest holder that has not expired.**
* **Retention drops the oldest log time first**, across the partitions of a topic.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dynlog.codec import MarkRun
from dynlog.errors import (
    ConfigurationError,
    LogDiverged,
    OffsetConflict,
    OffsetTruncated,
    PartitionNotFound,
    ProducerFenced,
    TopicNotFound,
)
from dynlog.marks import EXPIRY_MS, MarkState
from dynlog.topics import (
    EPHEMERAL_EXPIRY_S,
    HOLDER_MAX_LAG_BYTES,
    MAX_PARTITIONS,
    NAMED_EXPIRY_S,
    Holder,
    HolderKind,
    Retention,
    Topic,
    check_name,
)

FIRST_EPOCH = 1
"""The epoch of a producer's first registration; foreign sources that never register use 0."""
KEPT_EVENTS = 1_000
GROUP_PREFIX = "group:"
HOLDER_EXPELLED = "holder-expelled"
TRUNCATION_FORCED = "truncation-forced"
QUARANTINED = "quarantined"
LOSS_ACCEPTED = "loss-accepted"


# Marks


class Judgement(NamedTuple):
    """Outcome for an append of ``len(offsets)`` records.

    ``kept`` are the indices to store, at consecutive offsets from the base; ``states`` are changed *copies* that the
    engine puts in the place of its own once the append is committed, and only then.
    """

    kept: Sequence[int]
    offsets: tuple[int, ...]
    states: dict[str, MarkState]


def judge_append(
    count: int,
    runs: Sequence[MarkRun],
    states: Mapping[str, MarkState],
    registered: Mapping[str, int],
    *,
    base: int,
    log_time_ms: int,
    topic: str,
    partition: int,
    expect: int | None = None,
) -> Judgement:
    """Which of ``count`` records are new if the next offset is ``base``, and where each lies.

    Raises OffsetConflict if any is new and ``expect`` is another offset than ``base``.  ``states`` has this
    partition's entries of the producers in ``runs`` (expired ones are ignored), ``registered`` the newest registered
    epoch of each.  Raises ProducerFenced for any epoch below either.
    """
    if not runs:
        check_expected(expect, base, topic, partition)
        return Judgement(range(count), tuple(range(base, base + count)), {})
    changed: dict[str, MarkState] = {}
    offsets: list[int] = []
    kept: list[int] = []
    for run in runs:
        unmarked = run.start - len(offsets)
        if unmarked:
            _keep(unmarked, base, offsets, kept)
        state = changed.get(run.producer_id) or _copy_of(states.get(run.producer_id), run.epoch, log_time_ms)
        newest = max(state.epoch, registered.get(run.producer_id, 0))
        if run.epoch < newest:
            raise ProducerFenced(
                f"producer {run.producer_id!r} writes in epoch {run.epoch} but epoch {newest} exists: another instance "
                "took over; stop this one, or register it anew",
                topic=topic,
                partition=partition,
            )
        repeats = state.new_part(run)
        offsets += [state.first_offset(run.sequence + i) for i in range(repeats)]
        if repeats < run.length:
            state.accept(run.epoch, run.sequence + repeats, run.length - repeats, base + len(kept), log_time_ms)
            _keep(run.length - repeats, base, offsets, kept)
            changed[run.producer_id] = state
    if len(offsets) < count:
        _keep(count - len(offsets), base, offsets, kept)
    if kept:  # what is nothing but repeats was stored where it was expected, or without such a condition
        check_expected(expect, base, topic, partition)
    return Judgement(kept, tuple(offsets), changed)


def check_expected(expect: int | None, end: int, topic: str, partition: int) -> None:
    """Raises OffsetConflict unless the partition ends where the append expects, if it expects anything."""
    if expect is not None and expect != end:
        raise OffsetConflict(topic=topic, partition=partition, expected=expect, end=end)


def check_incarnation(topic: Topic, wanted: str | None) -> None:
    """Raises TopicNotFound if the topic is another incarnation than the one that the caller means."""
    if wanted is not None and topic.incarnation != wanted:
        raise TopicNotFound(
            f"the topic was deleted and created anew: it is incarnation {topic.incarnation} now, not {wanted}; look it "
            "up again, and decide anew what is to be done to it",
            topic=topic.name,
        )


def check_expect(expect: int | None) -> None:
    """Raises ConfigurationError for an expectation that no partition can meet."""
    if expect is not None and expect < 0:
        raise ConfigurationError(
            f"expect={expect}: the end of a partition is 0 or more; leave it out to append anywhere"
        )


def _keep(many: int, base: int, offsets: list[int], kept: list[int]) -> None:
    """Takes the next ``many`` records as new."""
    at, offset = len(offsets), base + len(kept)
    kept.extend(range(at, at + many))
    offsets.extend(range(offset, offset + many))


def _copy_of(state: MarkState | None, epoch: int, log_time_ms: int) -> MarkState:
    if state is None or has_expired(state, log_time_ms):
        return MarkState(epoch)
    return MarkState(state.epoch, state.last, state.seen_ms, list(state.stretches))


def has_expired(state: MarkState, log_time_ms: int) -> bool:
    """Whether an entry no longer counts: its producer's next record is a baseline."""
    return log_time_ms - state.seen_ms > EXPIRY_MS


def next_epoch(registered: int | None, seen: Iterable[int]) -> int:
    """The epoch to give out: above every one given out, and above every one ``seen`` in a partition."""
    return max([FIRST_EPOCH - 1 if registered is None else registered, *seen]) + 1


def check_newest(producer: str, epoch: int, after: int | None) -> None:
    """Raises ProducerFenced unless the next epoch follows ``after`` at once."""
    if after is not None and epoch != after + 1:
        raise ProducerFenced(
            f"producer {producer!r} of epoch {after} has a successor of epoch {epoch - 1}; this instance must stop"
        )


# Bounds


def check_partition_count(partitions: int) -> int:
    """A legal partition count; raises ConfigurationError."""
    if not isinstance(partitions, int) or not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions!r}")
    return partitions


def check_partition(topic: str, partitions: int, partition: int) -> int:
    """A partition that the topic has; raises PartitionNotFound."""
    if not 0 <= partition < partitions:
        raise PartitionNotFound(f"the topic has partitions 0 to {partitions - 1}", topic=topic, partition=partition)
    return partition


def truncated(topic: str, partition: int, offset: int, earliest: int) -> OffsetTruncated:
    """The error for an offset below the start."""
    return OffsetTruncated(
        f"offset {offset} was truncated; the earliest that is left is {earliest}",
        topic=topic,
        partition=partition,
        offset=offset,
        earliest=earliest,
    )


def beyond_end(topic: str, partition: int, offset: int, end: int) -> LogDiverged:
    """The error for an offset beyond the end."""
    return LogDiverged(
        f"offset {offset} lies beyond the end {end}: it lost its tail, was restored from a backup, or the position "
        "is another log's; rebuild from a snapshot or from the earliest offset",
        topic=topic,
        partition=partition,
        offset=offset,
    )


def other_incarnation(topic: str, partition: int, expected: str, found: str) -> LogDiverged:
    """The error for a position of another incarnation; ``found`` is the topic's present one."""
    return LogDiverged(
        f"the position is of incarnation {expected} but the topic is {found}: it was deleted and created anew, or the "
        "log was repaired; rebuild from a snapshot of this incarnation or from the earliest offset",
        topic=topic,
        partition=partition,
    )


def gone(topic: str, partition: int, incarnation: str) -> LogDiverged:
    """The error for a read that waited on a topic when that was deleted."""
    return LogDiverged(
        f"incarnation {incarnation} of the topic was deleted while a read waited", topic=topic, partition=partition
    )


# Holders


def check_holder(holder: Holder) -> Holder:
    """A legal holder; raises ConfigurationError."""
    check_name("holder", holder.name)
    for what, value in (("expires_after_s", holder.expires_after_s), ("max_lag_bytes", holder.max_lag_bytes)):
        if value is not None and value <= 0:
            raise ConfigurationError(f"holder {holder.name!r}: {what}={value}, a number above zero is needed, or None")
    return holder


def group_holder(group: str, positions: Mapping[int, int]) -> Holder:
    """The holder that a consumer group is."""
    return Holder(GROUP_PREFIX + group, HolderKind.NAMED, positions)


def why_expired(holder: Holder, last_seen_ms: int, now_ms: int, lag_bytes: int) -> str | None:
    """Why a holder no longer blocks truncation, or None if it does; ``lag_bytes`` lie from its positions on."""
    if holder.kind is HolderKind.PINNED:
        return None
    default = EPHEMERAL_EXPIRY_S if holder.kind is HolderKind.EPHEMERAL else NAMED_EXPIRY_S
    after = holder.expires_after_s if holder.expires_after_s is not None else default
    silent = (now_ms - last_seen_ms) / 1000
    if silent > after:
        return f"no heartbeat for {silent:.0f} s, over its {after:.0f} s"
    most = holder.max_lag_bytes if holder.max_lag_bytes is not None else HOLDER_MAX_LAG_BYTES
    if lag_bytes > most:
        return f"kept {lag_bytes} bytes from truncation, over its {most}"
    return None


class Limit(NamedTuple):
    """How far a partition may be truncated, and the holders that keep it from going further."""

    before: int
    blocked_by: tuple[str, ...]


def truncation_limit(before: int, partition: int, holders: Iterable[Holder]) -> Limit:
    """The limit for a truncation up to ``before``; ``holders`` are those that have not expired."""
    slower = [(h.positions[partition], h.name) for h in holders if h.positions.get(partition, before) < before]
    return Limit(min([before, *(offset for offset, _ in slower)]), tuple(sorted(name for _, name in slower)))


# Retention


class Segment(NamedTuple):
    """Neighbouring records that one append stored: offsets ``base <= o < next``, one log time, ``size`` bytes."""

    base: int
    next: int
    log_time_ms: int
    size: int


def retention_cuts(
    partitions: Mapping[int, Iterable[Segment]], retention: Retention, *, total_bytes: int, now_ms: int
) -> dict[int, int]:
    """Per partition the offset below which retention keeps nothing; partitions that keep all are left out.

    Each iterable gives a partition's segments from its start and is read only as far as needed; ``total_bytes`` is what
    the topic takes.  Age counts from ``now_ms`` on the engine's clock.
    """
    oldest = None if retention.max_age_s is None else now_ms - round(retention.max_age_s * 1000)
    cuts: dict[int, int] = {}
    merged = heapq.merge(*(_tagged(partition, segments) for partition, segments in partitions.items()))
    for log_time, partition, segment in merged:
        too_old = oldest is not None and log_time < oldest
        too_much = retention.max_bytes is not None and total_bytes > retention.max_bytes
        if not too_old and not too_much:
            break
        cuts[partition] = segment.next
        total_bytes -= segment.size
    return cuts


def _tagged(partition: int, segments: Iterable[Segment]) -> Iterable[tuple[int, int, Segment]]:
    for segment in segments:
        yield segment.log_time_ms, partition, segment
