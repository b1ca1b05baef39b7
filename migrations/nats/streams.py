"""The mover of streams: each becomes a topic with its messages in order, and its durable consumers become groups.

A message keeps its subject (as key and header), its headers and its time, and says where it was; see
`dynlog.migrations.nats.origin`.  Dynamo's own streams of KV events are the snapshot mover's.
"""

from __future__ import annotations

from contextlib import aclosing

from pydantic import JsonValue

from dynlog.adapters.nats.streams import StreamInfo, read_stream, stream_info
from dynlog.errors import ConfigurationError, SourceChanged, TopicNotFound
from dynlog.log import Log
from dynlog.migrations.mirror.choice import Choice, recorded_choice
from dynlog.migrations.mirror.inbound import producer_of
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.nats.contract import MADE_BY, Difference, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.origin import SOURCE_LABEL, last_sequences
from dynlog.migrations.nats.positions import check_groups, look_at_consumers, move_groups
from dynlog.migrations.nats.readers import GROUP, readers_of
from dynlog.migrations.nats.spread import spread_of
from dynlog.migrations.nats.stream_check import compare_stream, others_records
from dynlog.migrations.nats.stream_copy import Judge, StreamCopy, message_name
from dynlog.migrations.nats.survey import Survey, planned_or_named
from dynlog.migrations.nats.targets import Refusals, targets_of
from dynlog.topics import Retention, Topic

MOST_NAME = 200
MAX_PRODUCER = 256
SCAN_MESSAGES, SCAN_BYTES = 5_000, 256 << 20


class StreamMover:
    """Moves every stream that is neither a bucket's nor Dynamo's KV events."""

    kind = "streams"

    async def plan(self, survey: Survey) -> list[Item]:
        by, partitions = survey.choices.partition_by, survey.choices.partitions
        spread_of(by, partitions)
        targets = targets_of((info.name for info in survey.streams), MOST_NAME)
        topics = {topic.name: topic for topic in await survey.log.topics()}
        items = []
        for info in survey.streams:
            target = targets[info.name]
            why = _in_the_way(info, topics.get(target), by, partitions)
            if why is not None:
                items.append(_item(self.kind, info, "", [], [why], {}))
                continue
            items.append(
                await planned_or_named(self.kind, info.name, info.created, self._planned(survey, info, target))
            )
        return items

    async def _planned(self, survey: Survey, info: StreamInfo, target: str) -> Item:
        consumers = await look_at_consumers(survey.server, info)
        unfit, note = await _unfit(survey, info)
        refused = [*consumers.refused, *unfit]
        notes = [*_settings_notes(info), *note, *consumers.notes]
        settings: dict[str, JsonValue] = {
            "partition_by": survey.choices.partition_by, "partitions": survey.choices.partitions,
            "groups": [standing.group for standing in consumers.standings],
        }  # fmt: skip
        return _item(self.kind, info, target, notes, refused, settings)

    async def apply(self, item: Item, run: Run) -> Outcome:
        info = await _info(item, run)
        topic = await _make_topic(item, info, run)
        copy = StreamCopy(item, run, topic, spread_of(*_chosen(item)), info)
        await copy.run()
        left = await move_groups(item, run, topic.name, info)
        done = copy.done
        return Outcome(
            item=item.id, moved=done.moved, already=done.already, bytes=done.bytes,
            refused=(*copy.refused, *left),
        )  # fmt: skip

    async def verify(self, item: Item, run: Run) -> list[Difference]:
        info = await _info(item, run)
        try:
            topic = await run.log.topic(item.target)
        except TopicNotFound:
            return [Difference(name=info.name, what=f"there is no topic {item.target}: apply it")]
        differences = await compare_stream(run.server, info, run.log, topic, spread_of(*_chosen(item)))
        return [*differences, *await check_groups(run.server, run.log, topic.name, info)]

    async def rollback(self, item: Item, run: Run) -> Outcome:
        return await remove_topic(item, run, run.journal.made(item.id, "topic"))


def label_of(info: StreamInfo, by: str | None) -> str:
    """The value of `SOURCE_LABEL` for the topic that the stream is moved into."""
    place = stream_place(info)
    return place if by is None else f"{place} by {by}"


def _item(
    kind: str, info: StreamInfo, target: str, notes: list[str], refused: list[Refusal], settings: dict[str, JsonValue]
) -> Item:
    return Item(
        kind=kind, source=info.name, target=target, count=info.messages, bytes=info.bytes, first_seq=info.first_seq,
        last_seq=info.last_seq, created=info.created, notes=tuple(notes), refused=tuple(refused), settings=settings,
    )  # fmt: skip


def _in_the_way(info: StreamInfo, there: Topic | None, by: str | None, partitions: int) -> Refusal | None:
    """Why the stream cannot be moved at all."""
    why = ""
    if info.name.startswith("$"):
        why = "it is the NATS server's own (MQTT keeps sessions in such streams): nothing of dynlog reads it"
    elif len(producer_of(stream_place(info))) > MAX_PRODUCER:
        why = "its name is too long to stand in the marks of its records: mirror it into a stream with a shorter one"
    elif there is not None:
        why = _other_use(there, info, by, partitions)
    return Refusal(name=info.name, why=why) if why else None


def _other_use(there: Topic, info: StreamInfo, by: str | None, partitions: int) -> str:
    """What the topic is for, if not for all of the stream, spread like this: marks would be taken for repeats."""
    label, mirrored = there.labels.get(SOURCE_LABEL), recorded_choice(there, stream_place(info))
    if label is not None and label != (wanted := label_of(info, by)):
        place, _, before = label.partition(" by ")
        if place == stream_place(info):
            how = f"with --partition-by {before}: give that again" if before else "without --partition-by: leave it out"
            return f"topic {there.name} was begun {how}, or roll that migration back first"
        return (
            f"topic {there.name} holds {label} and would hold {wanted}: roll that migration back, or delete the topic"
        )
    if mirrored is not None and mirrored != Choice(None, by):
        what = mirrored.subject or "all"
        how = f", spread by {mirrored.partition_by}" if mirrored.partition_by else ""
        return f"a mirror brings {what} of the stream{how} into topic {there.name}: let it, or delete the topic"
    if (label or mirrored) and there.partitions != partitions:
        return f"topic {there.name} has {there.partitions} partitions and not {partitions}: give that number"
    return ""


def _settings_notes(info: StreamInfo) -> list[str]:
    config, notes = info.config, []
    if age := int(config.get("max_age") or 0):
        notes.append(f"kept for {age / 1e9:g} s, in the topic by log time")
    limits = (("max_bytes", "bytes"), ("max_msgs", "messages"), ("max_msgs_per_subject", "messages per subject"))
    notes += [
        f"its bound of {config[name]} {what} has no equal in the topic: truncate it, or copy it into one with retention"
        for name, what in limits
        if int(config.get(name) or -1) > 0
    ]
    if (retention := config.get("retention", "limits")) != "limits":
        notes.append(
            f"retention {retention}: NATS drops what was acknowledged, the topic keeps it until it is truncated"
        )
    if config.get("mirror") or config.get("sources"):
        notes.append("a mirror of other streams: its sequences are moved as they are here")
    return notes


async def _unfit(survey: Survey, info: StreamInfo) -> tuple[list[Refusal], list[str]]:
    """The messages that are over the log's limits, as far as a plan may read for that; and a note if it may not."""
    judge, refused = Judge(info, None, survey.log.capabilities.max_batch_bytes), Refusals()
    largest = int(info.config.get("max_msg_size") or -1)
    if min(info.bytes, largest if largest > 0 else survey.server.max_payload) < judge.limit // 2:
        return [], []
    if not is_worth_reading(info):
        return [], [
            f"it may have messages over the {judge.limit} bytes that an append of this log takes: apply names them"
        ]
    async with aclosing(read_stream(survey.server, info, first=info.first_seq, last=info.last_seq)) as messages:
        async for message in messages:
            record, _, why = judge(message)
            if record is None and why:
                refused.add(message_name(info.name, message), why)
    return list(refused.all()), []


def is_worth_reading(info: StreamInfo) -> bool:
    """Whether a plan reads the stream, or bucket, to name what will not fit; a plan is to take moments."""
    return info.messages <= SCAN_MESSAGES and info.bytes <= SCAN_BYTES


async def _info(item: Item, run: Run) -> StreamInfo:
    info = await stream_info(run.server, item.source)
    if info.created != item.created:
        raise SourceChanged(f"stream {item.source!r} was deleted and made anew since the plan: plan and apply again")
    return info


async def _make_topic(item: Item, info: StreamInfo, run: Run) -> Topic:
    by, partitions = _chosen(item)
    try:
        topic = await run.log.topic(item.target)
    except TopicNotFound:
        await run.making(item, "topic", item.target)
        age = int(info.config.get("max_age") or 0) / 1e9
        topic = await run.log.create_topic(
            item.target, partitions=partitions, exist_ok=True, retention=Retention(max_age_s=age or None),
            labels={SOURCE_LABEL: label_of(info, by), MADE_BY: run.migration},
        )  # fmt: skip
    refusal = _in_the_way(info, topic, by, partitions)
    # A mirror's topic has no label of ours, but the stream's records.
    if refusal is None and SOURCE_LABEL not in topic.labels and not await _holds(run.log, topic, info):
        refusal = Refusal(
            name=info.name, why=f"topic {topic.name} is there and holds nothing of this stream: delete it"
        )
    if refusal is not None:
        raise ConfigurationError(f"{refusal.name}: {refusal.why}; nothing was written into it")
    return topic


def _chosen(item: Item) -> tuple[str | None, int]:
    by, partitions = item.settings.get("partition_by"), item.settings.get("partitions")
    return by if isinstance(by, str) else None, partitions if isinstance(partitions, int) else 1


async def _holds(log: Log, topic: Topic, info: StreamInfo) -> bool:
    return bool(await last_sequences(log, topic.name, stream_place(info)))


async def remove_topic(item: Item, run: Run, names: list[str]) -> Outcome:
    """Deletes the topics of those names that this migration made, unless others read them or wrote into them since."""
    removed, size, refused = 0, 0, list[Refusal]()
    for name in names:
        try:
            topic = await run.log.topic(name)
        except TopicNotFound:
            continue
        if topic.labels.get(MADE_BY) != run.migration:
            refused.append(Refusal(name=name, why="this migration did not make it: it stays as it is"))
        elif readers := await readers_of(run.log, topic, name, run.journal.made(item.id, GROUP)):
            refused += readers
        elif others := await others_records(run.log, topic):
            refused.append(
                Refusal(
                    name=name, why=f"others wrote {others} records into it since: it stays; delete it if they may go"
                )
            )
        else:
            states = await run.log.partitions(name)
            await run.log.delete_topic(name)
            removed += sum(state.end - state.earliest for state in states)
            size += sum(state.bytes for state in states)
    return Outcome(item=item.id, moved=removed, bytes=size, refused=tuple(refused))
