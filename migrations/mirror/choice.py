"""What of a stream a topic takes, and how it is spread over partitions: settled by the first mirror, for ever.

Marks are the stream's sequences, so a second choice for the same topic would take messages for repeats that never were
there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from dynlog.adapters.nats.streams import StreamInfo
from dynlog.errors import ConfigurationError, TopicNotFound
from dynlog.log import Log
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.nats.origin import SOURCE_LABEL
from dynlog.migrations.nats.spread import spread_of
from dynlog.topics import Topic


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a stream is mirrored, and how it is spread over partitions (`dynlog.migrations.nats.spread`)."""

    subject: str | None = None
    partition_by: str | None = None


def recorded_choice(topic: Topic, place: str) -> Choice | None:
    """What the topic takes of that stream since it was first mirrored into it."""
    said = topic.labels.get(_label(place))
    if said is None:
        return None
    subject, by = json.loads(said)
    return Choice(None if subject == ">" else subject, by)


def mirrored_places(topic: Topic) -> list[str]:
    """The streams (their places) that a mirror was ever opened for into the topic."""
    return sorted(label.removeprefix(_label("")) for label in topic.labels if label.startswith(_label("")))


def is_taken(topic: Topic, place: str) -> bool:
    """Whether the topic takes that stream: a mirror or a migration of it began there."""
    moved = topic.labels.get(SOURCE_LABEL, "").partition(" by ")[0]
    return moved == place or recorded_choice(topic, place) is not None


def check_spread(partition_by: str | None) -> None:
    """Raises ConfigurationError for a rule that is none, before it is settled for ever."""
    if partition_by is not None:
        spread_of(partition_by, 1)


def _label(place: str) -> str:
    return f"dynlog.mirror {place}"


async def settle(log: Log, topic: Topic, stream: StreamInfo, choice: Choice) -> Choice:
    """The choice that holds for that topic: what is left open is as the topic has it, or a migration began it.

    Raises ConfigurationError for one that cannot hold beside what was settled before.
    """
    check_spread(choice.partition_by)
    place, subject = stream_place(stream), choice.subject or ">"
    by = choice.partition_by or ("subject" if topic.partitions > 1 else None)
    moved, _, moved_by = topic.labels.get(SOURCE_LABEL, "").partition(" by ")
    if moved == place:
        by = moved_by or None
    before = recorded_choice(topic, place)
    if before is not None:
        by = before.partition_by
    wanted = json.dumps([subject, by])
    said = await log.label_topic(topic.name, _label(place), wanted)
    if said != wanted or choice.partition_by not in (None, by):
        there, how = json.loads(said)
        raise ConfigurationError(
            f"topic {topic.name!r} takes {there!r} of stream {stream.name!r}, spread by {how or 'nothing'}, for ever: "
            "mirror into another topic, or as before"
        )
    return Choice(choice.subject, by)


async def target_topic(log: Log, name: str, partitions: int | None) -> Topic:
    """The topic, made if there is none; raises ConfigurationError if it has another number of partitions."""
    try:
        info = await log.topic(name)
    except TopicNotFound:
        info = await log.create_topic(name, partitions=partitions or 1, exist_ok=partitions is None)
    if partitions is not None and info.partitions != partitions:
        has = "1 partition" if info.partitions == 1 else f"{info.partitions} partitions"
        raise ConfigurationError(f"topic {name!r} has {has}, which is for ever; leave out --partitions")
    return info
