"""Compaction moves what is still needed to the end of the log and truncates below: fold(compact(log)) == fold(log).

* **Nothing is ever taken out of the middle.**  A reader that is behind is told (OffsetTruncated) or sees everything; it
  is never silently robbed of a tombstone.
* **A record is moved only while it is the newest**: it is appended with ``expect``, so between what was decided and
  where it comes to lie there is nothing.
* **Truncation never passes a holder**; what lies from the slowest one on stays as it is and is not moved.
* **Killed anywhere, it leaves a log that folds to the same state** (some records are there twice), and the next run
  completes it.

Writers are never held up; so those that leave the partition no pause as long as a read and an append keep a compaction
from its end: it tries again until its deadline.

Readers that saw the originals get moved records again, as ordinary records at new offsets; the header ``dynlog-moved``
(`dynlog.keeper`) tells who wants to know.  A moved record keeps key, headers, parts, control and the producer's time;
it has no mark, and a log time of its own.

Where marks are left to the reader (Kafka), a repeat or a zombie's record that is *dropped* must not stay without what
it repeats, or whoever begins to read between the two would take it for new.  So the log then begins above it, and
marked records stay where they are for `REPEATS_S` of log time; a repeat that comes later still is taken for new by
whoever begins to read only then.  That so much time has passed is shown by what was appended last, be it by others or
by the compaction itself, and not by this machine's clock: one that runs ahead makes a compaction move more than it can
truncate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from dynlog.compactor import CHUNK_BYTES, CHUNK_RECORDS, Compaction, Compactor, Progress
from dynlog.errors import ConfigurationError, DeadlineExceeded, OffsetTruncated, PartitionNotFound
from dynlog.group_topic import is_internal
from dynlog.keeper import Keeper, KeyedLatest
from dynlog.log import Log
from dynlog.timing import Deadline
from dynlog.topics import Retention, Topic

__all__ = ["CHUNK_BYTES", "CHUNK_RECORDS", "MIN_DIRTY", "REPEATS_S", "Compaction", "Progress", "compact"]

MIN_DIRTY = 0.5
TIMEOUT_S = 600.0
REPEATS_S = 300.0
"""Longer than any delivery goes on being tried (`dynlog.delivery`)."""
KEPT_BY_THEMSELVES = ("dynlog.kv",)
"""Labels of topics whose records do more than replace one another: `KeyedLatest` would lose some."""


async def compact(
    log: Log,
    topic: str,
    partition: int = 0,
    *,
    keeper: Callable[[], Keeper] = KeyedLatest,
    min_dirty: float = MIN_DIRTY,
    force: bool = False,
    dry_run: bool = False,
    repeats_s: float = REPEATS_S,
    timeout: float = TIMEOUT_S,
    progress: Progress | None = None,
) -> Compaction:
    """Compacts a partition, if at least ``min_dirty`` of its records would go (or with ``force``, if any would).

    May be cancelled anywhere and run by several at once: whatever is left is a log of the same state.  Memory holds
    what the keeper holds and one append.  Raises TopicNotFound, PartitionNotFound; ConfigurationError for a topic with
    a retention (moved records would be young again) or one whose records forbid it; BatchTooLarge for a record that
    fills an append to the brim; DeadlineExceeded after ``timeout`` seconds; what `Log.read` and `Log.append` raise.
    """
    deadline = Deadline(timeout)
    info = await log.topic(topic)
    _check(info, partition, keeper)
    try:
        async with asyncio.timeout(timeout):
            while True:
                with suppress(OffsetTruncated):  # somebody else truncated what was still to be read: from the new start
                    before = (await log.partitions(topic))[partition]
                    compactor = Compactor(log, info, before, keeper(), repeats_s, deadline, progress)
                    return await compactor.run(0.0 if force else min_dirty, dry_run)
    except TimeoutError:
        raise DeadlineExceeded(
            f"topic {topic!r}, partition {partition} was not compacted within {timeout:g} s: it is as sound as before, "
            "with some records twice; compact it again with more time"
        ) from None


def _check(topic: Topic, partition: int, keeper: Callable[[], Keeper]) -> None:
    """Raises ConfigurationError for a topic that must not be compacted so."""
    if not 0 <= partition < topic.partitions:
        raise PartitionNotFound(
            f"the topic has partitions 0 to {topic.partitions - 1}", topic=topic.name, partition=partition
        )
    if topic.retention != Retention():
        raise ConfigurationError(
            f"topic {topic.name!r} has a retention, and records that were moved would be young again: a topic is "
            "either compacted or kept for a time"
        )
    if is_internal(topic):
        raise ConfigurationError(f"topic {topic.name!r} is a consumer group's own, which keeps itself short")
    if keeper is KeyedLatest and (own := [label for label in KEPT_BY_THEMSELVES if label in topic.labels]):
        raise ConfigurationError(
            f"topic {topic.name!r} has the label {own[0]}: its records do more than replace one another, so it is "
            "compacted by its own keeper only"
        )
