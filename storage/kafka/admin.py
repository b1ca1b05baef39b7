"""Questions and orders about topics: create, delete, bounds, offsets by time, truncation, settings.

All of them may be repeated, and are, until the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.protocol.admin import CreateTopicsRequest, DeleteRecordsRequest, DescribeConfigsRequest
from aiokafka.protocol.offset import OffsetRequest

from dynlog.errors import ConfigurationError, LogUnavailable, TopicNotFound
from dynlog.storage.kafka.cluster import BACKOFF, Cluster, Place
from dynlog.storage.kafka.failures import (
    GONE,
    INVALID_TOPIC,
    OFFSET_OUT_OF_RANGE,
    TOPIC_EXISTS,
    TRANSIENT,
    UNKNOWN_TOPIC,
    UNKNOWN_TOPIC_ID,
    NotSent,
    name_of,
    refused,
)
from dynlog.storage.kafka.protocol import DeleteTopicsRequest, MetadataRequest
from dynlog.storage.kafka.wires import ANSWER_S, Purpose
from dynlog.timing import Deadline

EARLIEST, LATEST = -2, -1
KEPT_FOR_EVER = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}
"""Nothing but dynlog truncates a topic that dynlog made, and log time is the broker's."""
INVALID_REPLICATION, BROKER_NOT_AVAILABLE = 38, 8
_TOPIC = 2
_READ_COMMITTED = 1


async def create_topic(cluster: Cluster, name: str, partitions: int, replication: int, deadline: Deadline) -> Place:
    """The topic, made now or there before, once every partition has a leader; ConfigurationError if it cannot be."""
    asked: tuple[Any, ...] = (name, partitions, replication, [], list(KEPT_FOR_EVER.items()))
    request = CreateTopicsRequest([asked], round(min(deadline.remaining, ANSWER_S) * 1000), False)
    await _until_accepted(lambda: cluster.ask_any(request, deadline), _created(name), deadline)
    return await visible(cluster, name, deadline)


def _created(name: str) -> Callable[[Any], int]:
    def code_of(answer: Any) -> int:
        ((_, code, message),) = answer.topic_errors
        if code == INVALID_REPLICATION and "fenced" in (message or ""):
            return BROKER_NOT_AVAILABLE  # so a cluster answers whose brokers have just started, or were stopped a while
        if code in (INVALID_TOPIC, 37, INVALID_REPLICATION, 42, 44):
            raise ConfigurationError(f"Kafka does not create the topic {name}: {name_of(code)}, {message}")
        return 0 if code == TOPIC_EXISTS else code

    return code_of


async def visible(cluster: Cluster, name: str, deadline: Deadline) -> Place:
    """The topic, once every broker knows it and every partition has a leader."""
    for pause in BACKOFF:
        place = (await cluster.describe([name], deadline)).get(name)
        if place is not None and place.leaders and min(place.leaders.values()) >= 0:
            answers = await cluster.ask_all(MetadataRequest([name]), deadline)
            if all(topic[0] == 0 for answer in answers for topic in answer.topics):
                return place
        if deadline.remaining <= pause:
            raise LogUnavailable("the topic was created but has no leader yet: repeat it", topic=name)
        await asyncio.sleep(pause)
    raise AssertionError("a backoff never ends")


async def delete_topic(cluster: Cluster, name: str, topic_id: bytes, deadline: Deadline) -> None:
    """Deletes that incarnation, if it is there, and returns once no broker knows it any more."""

    def code_of(answer: Any) -> int:
        ((_, _, code, *_),) = answer.topics
        return 0 if code in (UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID) else int(code)

    request = DeleteTopicsRequest(topic_id, round(min(deadline.remaining, ANSWER_S) * 1000))
    await _until_accepted(lambda: cluster.ask_any(request, deadline), code_of, deadline)
    for pause in BACKOFF:
        answers = await cluster.ask_all(MetadataRequest([name]), deadline)
        if answers and not any(topic[2] == topic_id for answer in answers for topic in answer.topics):
            break
        if deadline.remaining <= pause:
            raise LogUnavailable("the topic is being deleted but brokers still know it: repeat it", topic=name)
        await asyncio.sleep(pause)
    cluster.forget(name)


async def bounds(
    cluster: Cluster, name: str, partitions: Iterable[int], deadline: Deadline
) -> dict[int, tuple[int, int]]:
    """(start, end) of each partition."""
    numbers = list(partitions)
    starts = await offsets(cluster, name, dict.fromkeys(numbers, EARLIEST), deadline)
    ends = await offsets(cluster, name, dict.fromkeys(numbers, LATEST), deadline)
    # A partition may grow between the two questions, and be truncated up to the new end.
    return {number: (min(starts[number], ends[number]), ends[number]) for number in numbers}


async def offsets(cluster: Cluster, name: str, at: Mapping[int, int], deadline: Deadline) -> dict[int, int]:
    """Per partition the first offset at or after a time (milliseconds), -1 for none; or EARLIEST, or LATEST."""

    def request(wanted: Mapping[int, int]) -> OffsetRequest:
        return OffsetRequest(-1, _READ_COMMITTED, [(name, list(wanted.items()))])

    def parts(answer: Any) -> Iterable[tuple[int, int, int]]:
        return [(number, code, offset) for _, listed in answer.topics for number, code, _, offset in listed]

    return await _by_leader(cluster, name, at, request, parts, deadline)


async def delete_records(cluster: Cluster, name: str, before: Mapping[int, int], deadline: Deadline) -> dict[int, int]:
    """Truncates each partition below an offset; returns the starts."""

    def request(wanted: Mapping[int, int]) -> DeleteRecordsRequest:
        timeout_ms = round(min(deadline.remaining, ANSWER_S) * 1000)
        return DeleteRecordsRequest([(name, list(wanted.items()))], timeout_ms)

    def parts(answer: Any) -> Iterable[tuple[int, int, int]]:
        # Beyond the end, or below the start by another's truncation: nothing is left to do.
        return [
            (part[0], 0 if part[2] == OFFSET_OUT_OF_RANGE else part[2], part[1])
            for topic in answer.topics
            for part in topic[1]
        ]

    return await _by_leader(cluster, name, before, request, parts, deadline)


async def settings(cluster: Cluster, name: str, deadline: Deadline) -> dict[str, str]:
    """The topic's settings as they are in force."""
    request = DescribeConfigsRequest([(_TOPIC, name, None)])

    def code_of(answer: Any) -> int:
        return int(answer.resources[0][0])

    answer = await _until_accepted(lambda: cluster.ask_any(request, deadline), code_of, deadline)
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


async def _by_leader(
    cluster: Cluster,
    name: str,
    wanted: Mapping[int, int],
    request: Callable[[Mapping[int, int]], Any],
    parts: Callable[[Any], Iterable[tuple[int, int, int]]],
    deadline: Deadline,
) -> dict[int, int]:
    """Asks each partition's leader, again for those that had none or moved; TopicNotFound if the topic is gone."""
    done: dict[int, int] = {}
    last: LogUnavailable = NotSent("the partition has no leader now", topic=name)
    for pause in BACKOFF:
        by_node: dict[int, dict[int, int]] = {}
        for number, value in wanted.items():
            if number not in done and (node := await cluster.leader(name, number, deadline)) is not None:
                by_node.setdefault(node, {})[number] = value
        for node, some in by_node.items():
            try:
                answer = await cluster.ask_node(node, Purpose.ASK, request(some), deadline)
            except LogUnavailable as error:
                cluster.forget(name)
                last = error
                continue
            for number, code, value in parts(answer):
                if code == 0:
                    done[number] = value
                elif code in TRANSIENT:
                    cluster.forget(name)
                    last = LogUnavailable(f"the broker answers {name_of(code)}", topic=name, partition=number)
                else:
                    raise refused(code, "a question about offsets", topic=name, partition=number)
        if len(done) == len(wanted):
            return done
        if cluster.known(name) is None and name not in await cluster.describe([name], deadline):
            raise TopicNotFound("the brokers do not know the topic", topic=name)
        if deadline.remaining <= pause:
            raise last
        await asyncio.sleep(pause)
    raise AssertionError("a backoff never ends")


async def _until_accepted(ask: Callable[[], Any], code_of: Callable[[Any], int], deadline: Deadline) -> Any:
    for pause in BACKOFF:
        answer = await Cluster.until_done(ask, deadline)
        code = code_of(answer)
        if code == 0:
            return answer
        if code not in TRANSIENT and code not in GONE:
            raise refused(code, "an order about a topic")
        if deadline.remaining <= pause:
            raise LogUnavailable(f"the broker answers {name_of(code)}")
        await asyncio.sleep(pause)
    raise AssertionError("a backoff never ends")
