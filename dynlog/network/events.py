"""Events: what is published to an entity reaches whoever subscribes to it or to anything below it, never upward.

An event's place in the log is its name: (topic of the log, partition, offset).  Those of a collection have a log topic
of their own, created once; those of instances share one, in which the instance is the key.  Who belongs to whom is
judged as of the registry offset that the publisher saw, which travels with the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import msgpack

from dynlog.call_errors import ProtocolError
from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError, MalformedRecord
from dynlog.network.calls import NO_HEADERS
from dynlog.received import Delivery
from dynlog.record import Buffer, Record

SHARED_TOPIC = "dynlog.events"
SHARED_PARTITIONS = 4
MAX_EVENT_BYTES = 512 << 10


class Reach(Enum):
    """What a publisher promises."""

    AT_MOST_ONCE = "at most once"
    """It goes over wires alone, to whoever can be reached now."""
    AT_LEAST_ONCE = "at least once"
    """It is in the log before `publish` returns; each subscriber sees it, once if it takes events in order."""


class Place(NamedTuple):
    """Where an event lies."""

    topic: str
    partition: int
    offset: int


@dataclass(slots=True)  # not frozen, which would triple the price of making one: nobody changes it all the same
class Event:
    """What a subscriber is given."""

    target: DynamoEntityID
    """Whom it was published to."""
    topic: str
    body: Buffer
    sender: DynamoEntityID
    view_offset: int
    """Of the registry, as the publisher saw it."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    place: Place | None = None
    """Where it lies in the log; None for one that was sent over wires alone."""
    delivery: Delivery | None = field(default=None, compare=False, repr=False)
    """For a subscription under a name: attempt, `Delivery.emit` for effects that happen once, ack and nack."""


def log_topic(target: DynamoEntityID) -> tuple[str, int]:
    """Name and number of partitions of the log topic that holds the events of an entity."""
    if target.is_collection:
        return f"{SHARED_TOPIC}.{target.id:032x}", 1
    return SHARED_TOPIC, SHARED_PARTITIONS


def to_record(event: Event, target: bytes, sender: bytes) -> Record:
    """An event as it lies in the log; ``target`` and ``sender`` are its entities as text."""
    headers = {"topic": event.topic.encode(), "target": target, "sender": sender, "view": b"%d" % event.view_offset}
    if event.headers:
        headers["headers"] = msgpack.packb(dict(event.headers))
    return Record(parts=(event.body,), key=event.target.key, headers=headers)


def from_record(record: Record, place: Place) -> Event:
    """What `to_record` made; raises MalformedRecord."""
    said = record.headers
    try:
        headers = msgpack.unpackb(said["headers"]) if "headers" in said else NO_HEADERS
        if not isinstance(headers, Mapping):
            raise ValueError(f"headers are {type(headers).__name__}")
        return Event(
            _entity(bytes(said["target"]).decode()),
            bytes(said["topic"]).decode(),
            record.parts[0] if len(record.parts) == 1 else b"".join(record.parts),
            _entity(bytes(said["sender"]).decode()),
            int(said["view"]),
            headers,
            place,
        )
    except (KeyError, ValueError, ConfigurationError) as error:
        raise MalformedRecord(f"no event at {place}: {type(error).__name__}: {error}") from None


def to_push(event: Event, target: bytes, sender: bytes) -> bytes:
    """An event as it is pushed: encoded once, whoever it goes to."""
    packed: bytes = msgpack.packb(
        (target, sender, event.view_offset, dict(event.headers) or None, event.place, event.body)
    )
    return packed


def from_push(topic: str, body: Buffer) -> Event:
    """What `to_push` made; raises ProtocolError."""
    try:
        target, sender, view, headers, place, content = msgpack.unpackb(body)[:6]
        target, sender = target.decode(), sender.decode()
        match place:
            case None:
                where = None
            case [str(name), int(partition), int(offset)]:
                where = Place(name, partition, offset)
            case _:
                raise ValueError("its place in the log is none")
        if not (type(view) is int and type(content) is bytes and isinstance(headers or {}, Mapping)):
            raise ValueError("its fields are of other types")
        return Event(_entity(target), topic, content, _entity(sender), view, headers or NO_HEADERS, where)
    except (ValueError, TypeError, AttributeError, ConfigurationError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a pushed message that is no event: {type(error).__name__}: {error}") from None


_entity = lru_cache(maxsize=4096)(DynamoEntityID.parse)
"""Events come from and go to the same few again and again."""
