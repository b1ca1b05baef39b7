"""Streams, what they hold, and who stands where in them; nothing here changes any of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from dynlog.adapters.nats.access import NatsServer


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as it was when it was asked for; ``config`` is NATS's own, ``created`` tells it from a later one."""

    name: str
    subjects: tuple[str, ...]
    config: Mapping[str, Any]
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    created: str


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A consumer; ``ack_floor`` and ``delivered`` are stream sequences."""

    stream: str
    name: str
    durable: bool
    config: Mapping[str, Any]
    ack_floor: int
    delivered: int
    pending: int
    ack_pending: int


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message as it is stored.

    A header's values stand in their order; what in them is no UTF-8 is kept as surrogate escapes, so
    ``value.encode("utf-8", "surrogateescape")`` gives the bytes.  ``malformed`` holds a header block that follows no
    rule, whole; ``headers`` is then what could be read of it.
    """

    sequence: int
    subject: str
    headers: dict[str, list[str]] | None
    data: bytes
    time_ns: int
    malformed: bytes | None = None


async def list_streams(server: NatsServer) -> list[StreamInfo]:
    """All streams, by name."""
    raise NotImplementedError


async def stream_info(server: NatsServer, name: str) -> StreamInfo:
    """One stream; raises SourceNotFound."""
    raise NotImplementedError


async def list_consumers(server: NatsServer, stream: str) -> list[ConsumerInfo]:
    """All consumers of a stream, by name; raises SourceNotFound."""
    raise NotImplementedError


async def subjects_of(server: NatsServer, stream: str, filter: str = ">") -> dict[str, int]:
    """Each subject in the stream with how many messages it has; raises SourceNotFound."""
    raise NotImplementedError


async def read_stream(
    server: NatsServer, info: StreamInfo, *, first: int, last: int, subject: str | None = None
) -> AsyncGenerator[StreamMessage, None]:
    """Every message from ``first`` to ``last`` that is there, once and in order; what is left out was deleted.

    Memory is bounded, and a server that restarts is waited for.  Raises SourceUnavailable once it stayed away too long,
    SourceChanged if the stream was deleted or made anew meanwhile.
    """
    raise NotImplementedError
    yield
