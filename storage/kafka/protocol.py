"""The few requests that aiokafka does not have in a version that knows topic ids; layouts as in Kafka's protocol guide.

A topic id names one incarnation of a topic, so a fetch by id can never read another one that took its name.  Kafka
knows them since 3.1, which therefore is the oldest broker that the engine takes; it takes appends by id since 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

OLDEST_BROKER = "3.1"
PRODUCE, METADATA = 0, 3
PRODUCE_BY_ID = 13
BROKER_REGISTRATION = 62
"""A request that only controllers take."""
NO_ID = bytes(16)
_NAME = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
_NO_TAGS: dict[int, bytes] = {}


class Uuid(AbstractType[bytes]):  # type: ignore[misc]
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = METADATA
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _NAME), ("port", Int32), ("rack", _NAME), _TAGS)),
        ("cluster_id", _NAME),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _NAME),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _MetadataStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = METADATA
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("name", _NAME), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _FetchResponse(Response):  # type: ignore[misc]
    API_KEY = 1
    API_VERSION = 13
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("high_watermark", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        ("aborted", CompactArray(("producer_id", Int64), ("first_offset", Int64), _TAGS)),
                        ("preferred_read_replica", Int32),
                        ("records", CompactBytes),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _FetchStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 1
    API_VERSION = 13
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _FetchResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("max_wait_ms", Int32),
        ("min_bytes", Int32),
        ("max_bytes", Int32),
        ("isolation_level", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("fetch_offset", Int64),
                        ("last_fetched_epoch", Int32),
                        ("log_start_offset", Int64),
                        ("max_bytes", Int32),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("forgotten", CompactArray(("topic_id", Uuid), ("partitions", CompactArray(Int32)), _TAGS)),
        ("rack_id", _NAME),
        _TAGS,
    )


class _DeleteTopicsResponse(Response):  # type: ignore[misc]
    API_KEY = 20
    API_VERSION = 6
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _NAME), ("topic_id", Uuid), ("error_code", Int16), ("error_message", _NAME), _TAGS
            ),
        ),
        _TAGS,
    )  # fmt: skip


class _DeleteTopicsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 20
    API_VERSION = 6
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _DeleteTopicsResponse
    SCHEMA = Schema(("topics", CompactArray(("name", _NAME), ("topic_id", Uuid), _TAGS)), ("timeout_ms", Int32), _TAGS)


class _ProduceResponse(Response):  # type: ignore[misc]
    API_KEY = PRODUCE
    API_VERSION = PRODUCE_BY_ID
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("base_offset", Int64),
                        ("log_append_time_ms", Int64),
                        ("log_start_offset", Int64),
                        ("record_errors", CompactArray(("index", Int32), ("message", _NAME), _TAGS)),
                        ("error_message", _NAME),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _ProduceStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = PRODUCE
    API_VERSION = PRODUCE_BY_ID
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ProduceResponse
    SCHEMA = Schema(
        ("transactional_id", _NAME),
        ("acks", Int16),
        ("timeout_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid),
                ("partitions", CompactArray(("partition", Int32), ("records", CompactBytes), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class MetadataRequest(Request[_MetadataStruct]):  # type: ignore[misc]
    """Brokers, and topics with their ids and leaders; never creates a topic."""

    API_KEY = METADATA

    def __init__(self, names: Sequence[str] | None) -> None:
        topics = None if names is None else [(NO_ID, name, _NO_TAGS) for name in names]
        self._fields: tuple[Any, ...] = (topics, False, False, _NO_TAGS)

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        return request_struct_class(*self._fields)


class FetchRequest(Request[_FetchStruct]):  # type: ignore[misc]
    """Records of committed transactions and of none, by topic id; ``wanted`` is (topic id, partition, offset)."""

    API_KEY = 1

    def __init__(
        self, wanted: Sequence[tuple[bytes, int, int]], *, wait_ms: int, max_bytes: int, each_bytes: int
    ) -> None:
        topics: dict[bytes, list[tuple[Any, ...]]] = {}
        for topic_id, partition, offset in wanted:
            topics.setdefault(topic_id, []).append((partition, -1, offset, -1, -1, each_bytes, _NO_TAGS))
        listed = [(topic_id, partitions, _NO_TAGS) for topic_id, partitions in topics.items()]
        self._fields: tuple[Any, ...] = (-1, wait_ms, 1, max_bytes, 1, 0, -1, listed, [], "", _NO_TAGS)

    def build(self, request_struct_class: type[_FetchStruct]) -> _FetchStruct:
        return request_struct_class(*self._fields)


class DeleteTopicsRequest(Request[_DeleteTopicsStruct]):  # type: ignore[misc]
    """Deletes one incarnation of a topic, by its id."""

    API_KEY = 20

    def __init__(self, topic_id: bytes, timeout_ms: int) -> None:
        self._fields: tuple[Any, ...] = ([(None, topic_id, _NO_TAGS)], timeout_ms, _NO_TAGS)

    def build(self, request_struct_class: type[_DeleteTopicsStruct]) -> _DeleteTopicsStruct:
        return request_struct_class(*self._fields)


class NamesOnly(Exception):
    """The broker takes appends by name only: it is older than Kafka 4.1."""


class ProduceByIdRequest(Request[_ProduceStruct]):  # type: ignore[misc]
    """A batch for one incarnation of a topic, acknowledged by all replicas; `NamesOnly` before anything is sent."""

    API_KEY = PRODUCE

    def __init__(self, topic_id: bytes, partition: int, batch: bytes, timeout_ms: int) -> None:
        topics = [(topic_id, [(partition, batch, _NO_TAGS)], _NO_TAGS)]
        self._fields: tuple[Any, ...] = (None, -1, timeout_ms, topics, _NO_TAGS)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> _ProduceStruct:
        if versions.get(PRODUCE, (0, 0))[1] < PRODUCE_BY_ID:
            raise NamesOnly
        struct: _ProduceStruct = super().prepare(versions)
        return struct

    def build(self, request_struct_class: type[_ProduceStruct]) -> _ProduceStruct:
        return request_struct_class(*self._fields)
