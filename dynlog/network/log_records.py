"""What lies in the two topics of the log call path; a record's control says what it means, its first part who and why.

``NAME.requests`` (key: whom it is for)      ``NAME.replies``, in the request's partition (key: the caller, or the lane)
    OPEN    a call, with its first message       DATA       a message of a stream of replies
    DATA    a further message of it              END        the outcome: the reply, and the effects made with it
    END     no further message                   ERROR      the outcome: why there is no reply
    CANCEL  its caller wants no reply            PONG       asked again: where the outcome lies
                                                 TOMBSTONE  the caller has these replies: they may be forgotten
                                                 BARRIER    a server takes over; what older epochs say does not count
                                                 CREDIT     effects are appended up to here, requests done up to there
                                                 GOAWAY     the server stopped, having begun nothing from here on

The first part is a msgpack array, the body follows as it is.  A call is named by its caller and correlation id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import xxhash

from dynlog.call_errors import MessageTooLarge
from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.network.calls import MAX_HEADERS, MAX_HEADERS_BYTES, Call
from dynlog.network.services import check_topic
from dynlog.partition import partition_of
from dynlog.record import Buffer, Control
from dynlog.topics import Retention, check_name

OPEN, DATA, END, ERROR, CANCEL = Control.OPEN, Control.DATA, Control.END, Control.ERROR, Control.CANCEL
PONG, TOMBSTONE, BARRIER = Control.PONG, Control.TOMBSTONE, Control.BARRIER
CREDIT, GOAWAY = Control.CREDIT, Control.GOAWAY
PARTITIONS = 4
MAX_DEADLINE_S = 24 * 3600.0
"""Of a call on the log; its reply is kept an hour longer."""
KEPT_MS = 3600 * 1000
"""How long after its deadline a reply lives that its caller did not acknowledge."""
RETENTION_S = MAX_DEADLINE_S + 2 * 3600.0
MAX_MESSAGE_BYTES = 16 << 20
SPARE_BYTES = (32 << 10) + MAX_HEADERS_BYTES
"""What a record may take beside its message: the first part, the key, the mark."""

pack = msgpack.Packer(use_bin_type=True).pack
unpack = msgpack.unpackb


class CallTopics(NamedTuple):
    """The topics of the calls under a name, which are made once."""

    requests: str
    replies: str
    partitions: int
    max_message: int

    @classmethod
    async def make(cls, log: Log, name: str, partitions: int = PARTITIONS) -> CallTopics:
        """Creates what is not there yet; raises TopicExists if it is there with another number of partitions."""
        check_name("topic", f"{name}.requests")
        kept = Retention(max_age_s=RETENTION_S)
        for topic in (f"{name}.requests", f"{name}.replies"):
            await log.create_topic(topic, partitions=partitions, retention=kept, exist_ok=True)
        most = min(MAX_MESSAGE_BYTES, log.capabilities.max_batch_bytes - SPARE_BYTES)
        return cls(f"{name}.requests", f"{name}.replies", partitions, most)

    def partition(self, target: DynamoEntityID, ident: bytes) -> int:
        """Where a call goes: an instance's calls lie together, a collection's are spread for its servers to share."""
        return partition_of(ident if target.is_collection else target.key, self.partitions)


class Opening(NamedTuple):
    """An OPEN record's first part."""

    correlation_id: str
    topic: str
    caller: str
    budget_ms: int
    """From the record's own log time on: their sum is the deadline, which no clock but the log's has a say in."""
    attempt: int
    headers: Mapping[str, str]
    more: bool
    """Whether messages follow."""


def opening(call: Call, more: bool) -> bytes:
    """The first part of a call's OPEN; raises ConfigurationError for what no path may carry."""
    check_topic(call.topic)
    left = call.deadline.remaining
    if left > MAX_DEADLINE_S:
        raise ConfigurationError(f"a call on the log may wait {MAX_DEADLINE_S:.0f} s at most, not {left:.0f}")
    headers = dict(call.headers)
    if headers and (
        len(headers) > MAX_HEADERS
        or sum(len(name.encode()) + len(value.encode()) for name, value in headers.items()) > MAX_HEADERS_BYTES
    ):
        raise ConfigurationError(f"a call has at most {MAX_HEADERS} headers, {MAX_HEADERS_BYTES} bytes in all")
    if len(call.correlation_id) > MAX_CORRELATION_CHARACTERS:
        raise ConfigurationError(f"a correlation id has at most {MAX_CORRELATION_CHARACTERS} characters")
    packed: bytes = pack(
        (
            call.correlation_id,
            call.topic,
            _text_of(call.caller, call.caller.incarnation),
            int(left * 1000),
            call.attempt,
            headers,
            more,
        )
    )
    return packed


MAX_CORRELATION_CHARACTERS = 256


def ident_of(caller: bytes, correlation_id: str) -> bytes:
    """Names a call among all callers' calls."""
    return caller + correlation_id.encode()


@lru_cache(maxsize=4096)
def entity_of(text: str) -> DynamoEntityID:
    """The entity of that text; callers are few and their calls many."""
    return DynamoEntityID.parse(text)


@lru_cache(maxsize=4096)
def caller_key(text: str) -> bytes:
    """The key of the entity of that text."""
    return entity_of(text).key


@lru_cache(maxsize=4096)
def _text_of(entity: DynamoEntityID, incarnation: int) -> str:
    # Entities are equal by their id alone, whatever their life.
    return str(entity)


def meta_of(body: Sequence[Buffer]) -> list[Any] | None:
    """A record's first part, or None for bytes that are none of ours."""
    try:
        meta = unpack(body[0])
    except (ValueError, IndexError, TypeError, msgpack.UnpackException):
        return None
    return meta if type(meta) is list and meta else None


def lane_name(topics: CallTopics, target: bytes, partition: int) -> str:
    """Under which a lane's servers follow one another: as a producer and as a holder."""
    return f"calls:{xxhash.xxh3_64_hexdigest(topics.requests.encode())}:{target.hex()}:{partition}"


def too_large(size: int, most: int, what: str, topic: str, correlation_id: str) -> MessageTooLarge:
    """A message that no record takes."""
    return MessageTooLarge(
        f"{what} of {size} bytes is over the {most} that a record of this log takes: put it into an object store and "
        f"send its key",
        topic=topic, correlation_id=correlation_id,
    )  # fmt: skip
