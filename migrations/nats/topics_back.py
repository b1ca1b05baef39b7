"""Takes back a topic that a migration made: only if it carries the migration's name and holds nothing of others."""

from __future__ import annotations

from collections.abc import Callable

from dynlog.batch import Position
from dynlog.errors import TopicNotFound
from dynlog.log import Log
from dynlog.manifests import SUFFIX
from dynlog.migrations.nats.contract import MADE_BY, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.readers import readers_of
from dynlog.topics import Topic


async def remove_topic(item: Item, run: Run, name: str, is_ours: Callable[[str], bool]) -> Outcome:
    """Deletes the topic, and the snapshots of its incarnation; ``is_ours`` knows the migration's producers.

    A topic that others read, or into which they wrote since, stays, and is named: what they need is nowhere else.
    """
    try:
        topic = await run.log.topic(name)
    except TopicNotFound:
        return Outcome(item=item.id)
    if topic.labels.get(MADE_BY) != run.migration:
        return Outcome(item=item.id)
    if readers := await readers_of(run.log, topic, name):
        return Outcome(item=item.id, refused=readers)
    records = size = 0
    for state in await run.log.partitions(name):
        records, size = records + state.end - state.earliest, size + state.bytes
        start = Position(name, topic.incarnation, state.partition, state.earliest)
        if (offset := await _of_others(run.log, start, is_ours)) is not None:
            why = (
                f"others have written to it since (partition {state.partition}, offset {offset}): it stays; delete it "
                "yourself if nobody needs that"
            )
            return Outcome(item=item.id, refused=(Refusal(name=name, why=why),))
    await _remove_snapshots(run, topic)
    await run.log.delete_topic(name)
    return Outcome(item=item.id, moved=records, bytes=size)


async def _of_others(log: Log, position: Position, is_ours: Callable[[str], bool]) -> int | None:
    """The offset of the first record that is not ours."""
    while True:
        batch = await log.read(position)
        ours = [False] * len(batch)
        for run in batch.marks:
            if is_ours(run.producer_id):
                ours[run.start : run.start + run.length] = [True] * run.length
        if False in ours:
            return batch.offsets[ours.index(False)]
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            return None


async def _remove_snapshots(run: Run, topic: Topic) -> None:
    keys = [info.key async for info in run.objects.list(f"snapshots/{topic.name}/")]
    for key in keys:
        if f"/{topic.incarnation}/" in key:
            await run.objects.delete(key)
    try:
        await run.log.delete_topic(topic.name + SUFFIX)
    except TopicNotFound:
        return
