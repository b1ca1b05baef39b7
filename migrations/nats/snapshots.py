"""The mover of router state: what a Dynamo router of releases 0.7 to 0.9 would start from becomes a topic of KV events.

``dynlog router rebuild`` of the topic then gives what that router would have had.  The way back is the source, which
is as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from dynlog.adapters.nats.names import RADIX_OBJECT
from dynlog.adapters.nats.streams import read_stream
from dynlog.errors import ConfigurationError, DynlogError, MalformedEvent, TopicExists, TopicNotFound
from dynlog.migrations.nats.contract import MADE_BY, Difference, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.readers import own_holder
from dynlog.migrations.nats.router_events import PRODUCERS, message_record, snapshot_records
from dynlog.migrations.nats.router_load import RouterLoad
from dynlog.migrations.nats.router_source import RouterSource, load, router_sources
from dynlog.migrations.nats.survey import Survey, planned_or_named
from dynlog.migrations.nats.topics_back import remove_topic
from dynlog.record import Record
from dynlog.replay import Replayer, release_quietly
from dynlog.router.dump import dump_events
from dynlog.router.projection import RouterProjection
from dynlog.router.state import PROJECTION
from dynlog.snapshots import Snapshots
from dynlog.topics import Topic

STREAM_LABEL = "dynlog.nats-events"
FOLD_RECORDS = 256

Rank = tuple[int, int]


class RouterMover:
    """Moves the router state of every component that keeps it in JetStream."""

    kind = "router"

    async def plan(self, survey: Survey) -> list[Item]:
        sources = router_sources(survey)
        if survey.choices.topic is not None and len(sources) > 1:
            raise ConfigurationError(
                f"--topic names one topic for {len(sources)} components, and a router has one each: leave it out, and "
                "each topic is named after its stream, or choose one component with --only"
            )
        return [
            await planned_or_named(self.kind, source.stream, "", self._planned(survey, source)) for source in sources
        ]

    async def _planned(self, survey: Survey, source: RouterSource) -> Item:
        notes, refused, size, count = [], [], 0, 0
        target = survey.choices.topic or source.stream
        info = await source.info(survey.server)
        try:
            loaded = await load(source, survey.server)
            if loaded is not None:
                events = loaded.events()
                count, size = len(events), len(loaded.body)
                notes.append(f"snapshot of {count} events as Dynamo {' or '.join(loaded.profiles)} writes it")
            elif info is not None and info.first_seq > 1:
                notes.append(f"no snapshot, and the stream begins at {info.first_seq}: what was before is not known")
        except DynlogError as error:
            refused.append(Refusal(name=f"{source.bucket}/{RADIX_OBJECT}", why=str(error)))
            target = ""
            notes.append("without its snapshot the state would be another: not moved")
        if info is not None:
            notes.append(f"tail of {info.messages} messages from {info.first_seq} to {info.last_seq}")
        if target and (trouble := await _in_the_way(survey, target)):
            refused.append(Refusal(name=target, why=trouble))
            target = ""
        return Item(
            kind=self.kind, source=source.stream, target=target, count=count + (info.messages if info else 0),
            bytes=size + (info.bytes if info else 0), first_seq=info.first_seq if info else 0,
            last_seq=info.last_seq if info else 0, created=info.created if info else "", notes=tuple(notes),
            refused=tuple(refused), settings={"partitions": survey.choices.partitions},
        )  # fmt: skip

    async def apply(self, item: Item, run: Run) -> Outcome:
        await run.making(item, "topic", item.target)
        labels = {MADE_BY: run.migration, STREAM_LABEL: item.source}
        try:
            topic = await run.log.topic(item.target)
        except TopicNotFound:
            partitions = item.settings.get("partitions", 1)
            assert isinstance(partitions, int)
            topic = await run.log.create_topic(item.target, partitions=partitions, labels=labels, exist_ok=True)
        if topic.labels.get(MADE_BY) != run.migration:
            raise TopicExists(_FOREIGN, topic=item.target)
        return await RouterLoad(item, run, topic.partitions).bring()

    async def verify(self, item: Item, run: Run) -> list[Difference]:
        there = await _source_state(item, run)
        found = []
        for what, snapshots in (
            ("from the log alone", None),
            ("from the snapshot on", Snapshots(run.log, item.target, run.objects, PROJECTION)),
        ):
            replayer = Replayer(run.log, item.target, RouterProjection, snapshots=snapshots, holder=own_holder())
            try:
                rebuilt = await replayer.rebuild()
                await rebuilt.reader.close()
            finally:
                await release_quietly(run.log, item.target, replayer.holder)
            found += [Difference(name=item.target, what=why) for why in rebuilt.report.snapshots_rejected]
            found += _differences(there, _holdings(rebuilt.state), what)
        return found

    async def rollback(self, item: Item, run: Run) -> Outcome:
        return await remove_topic(item, run, item.target, lambda producer: producer.startswith(PRODUCERS))


_FOREIGN = "there is such a topic, and this migration did not make it: choose another with --topic, or delete it"


async def _in_the_way(survey: Survey, target: str) -> str:
    """Why nothing can be moved into a topic of that name; nothing if that is empty."""
    try:
        topic: Topic = await survey.log.topic(target)
    except TopicNotFound:
        return ""
    except ConfigurationError as error:
        return str(error)
    return "" if topic.labels.get(MADE_BY) == survey.migration else _FOREIGN


# What a router would have had, and what it has


class _Columns:
    """Records as a projection reads them."""

    def __init__(self, records: list[Record]) -> None:
        self.keys = [record.key for record in records]
        self.bodies = [[bytes(part) for part in record.parts] for record in records]


async def _source_state(item: Item, run: Run) -> dict[Rank, tuple[int, str]]:
    """What each rank holds by the source, folded here and now."""
    state, waiting = RouterProjection(), list[Record]()
    async for record in _source_records(item, run):
        waiting.append(record)
        if len(waiting) == FOLD_RECORDS:
            state.apply(_Columns(waiting))
            waiting = []
    state.apply(_Columns(waiting))
    return _holdings(state)


async def _source_records(item: Item, run: Run) -> AsyncIterator[Record]:
    source = RouterSource.of(item)
    loaded = await load(source, run.server)
    for record in snapshot_records(loaded.events() if loaded is not None else (), "verify"):
        yield record
    info = await source.info(run.server)
    if info is None:
        return
    messages = read_stream(run.server, info, first=info.first_seq, last=info.last_seq)
    async with aclosing(messages):
        async for message in messages:
            try:
                yield message_record(message, "verify")
            except MalformedEvent:
                continue  # the apply named it


def _holdings(state: RouterProjection) -> dict[Rank, tuple[int, str]]:
    """Per worker and rank how many blocks it holds, and a digest of all that the canonical dump says of it."""
    digests: dict[Rank, Any] = {}
    counts: dict[Rank, int] = {}
    for line in dump_events(state.index):
        event = line["event"]
        event.pop("event_id", None)  # it only counts them
        rank = line["worker_id"], event["dp_rank"]
        digests.setdefault(rank, hashlib.sha256()).update(json.dumps(line, sort_keys=True).encode())
        counts[rank] = counts.get(rank, 0) + len(event["data"].get("stored", {}).get("blocks", ()))
    return {rank: (counts[rank], digest.hexdigest()) for rank, digest in digests.items()}


def _differences(
    there: dict[Rank, tuple[int, str]], here: dict[Rank, tuple[int, str]], what: str
) -> list[Difference]:  # fmt: skip
    found = []
    for rank in sorted(there.keys() | here.keys()):
        if there.get(rank) != here.get(rank):
            source, target = there.get(rank, (0, ""))[0], here.get(rank, (0, ""))[0]
            found.append(
                Difference(
                    name=f"worker {rank[0]} rank {rank[1]}",
                    what=f"rebuilt {what} it holds {target} blocks, by the source {source} "
                    + ("(others, though as many)" if source == target else "")
                    + ": if the source has gone on since, apply again",
                )
            )
    return found
