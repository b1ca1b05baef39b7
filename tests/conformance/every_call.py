"""Each call of the contract that names a topic, for the scenarios that hold for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from dynlog.batch import Position
from dynlog.log import Log
from dynlog.topics import Holder, HolderKind
from tests.conformance.backend import records

Call = Callable[[Log, str], Awaitable[Any]]


async def _verify(log: Log, topic: str) -> None:
    async for _ in log.verify(topic):
        pass


TOPIC_CALLS: dict[str, Call] = {
    "topic": lambda log, topic: log.topic(topic),
    "delete_topic": lambda log, topic: log.delete_topic(topic),
    "label_topic": lambda log, topic: log.label_topic(topic, "label", "value"),
    "append": lambda log, topic: log.append(topic, 0, records("a")),
    "read": lambda log, topic: log.read(Position(topic, "0" * 32, 0, 0)),
    "partitions": lambda log, topic: log.partitions(topic),
    "position": lambda log, topic: log.position(topic, 0),
    "offset_at": lambda log, topic: log.offset_at(topic, 0, 0),
    "hold": lambda log, topic: log.hold(topic, Holder("h", HolderKind.NAMED, {0: 0})),
    "holders": lambda log, topic: log.holders(topic),
    "truncate": lambda log, topic: log.truncate(topic, 0, 0),
    "enforce_retention": lambda log, topic: log.enforce_retention(topic),
    "open_generation": lambda log, topic: log.open_generation("g", topic),
    "commit": lambda log, topic: log.commit("g", topic, {0: 0}, generation=1),
    "committed": lambda log, topic: log.committed("g", topic),
    "verify": _verify,
}
"""Each raises TopicNotFound for a topic that does not exist."""

ALL_CALLS: dict[str, Call] = {
    **TOPIC_CALLS,
    "create_topic": lambda log, topic: log.create_topic(topic),
    "topics": lambda log, topic: log.topics(),
    "register_producer": lambda log, topic: log.register_producer("p"),
    "release": lambda log, topic: log.release(topic, "h"),
    "events": lambda log, topic: log.events(topic),
    "quarantine": lambda log, topic: log.quarantine(),
}
"""Each raises Closed once the log is closed."""
