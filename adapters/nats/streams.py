"""Streams, what they hold, and who stands where in them; nothing here changes any of it.

What is said of a stream by its number of messages may be old by the time it is read: sequences are what holds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.fetching import Batches, Fetcher, NotItself, Window, get_message
from dynlog.adapters.nats.messages import StreamMessage
from dynlog.errors import ConfigurationError, SourceChanged, SourceError, SourceNotFound, SourceUnavailable
from dynlog.timing import Backoff, Deadline

__all__ = [
    "ConsumerInfo", "StreamInfo", "StreamMessage", "get_message", "list_consumers", "list_streams", "read_stream",
    "stream_info", "subjects_of",
]  # fmt: skip

BATCHES_SINCE = (2, 11, 0)
"""Servers before ignore ``batch`` in a direct get."""
_NAME = re.compile(r"[^\x00-\x20\x7f.*>/\\]+")
_AGAIN = Backoff(first=0.05, most=1.0)


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

    @property
    def metadata(self) -> dict[str, str]:
        """What its makers wrote beside it, without what the server adds."""
        written = (self.config.get("metadata") or {}).items()
        return {name: value for name, value in written if not name.startswith("_nats.")}


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


async def list_streams(server: NatsServer) -> list[StreamInfo]:
    """All streams, by name; raises SourceUnavailable if the server cannot speak for one of them now."""
    found: dict[str, StreamInfo] = {}
    async for page in _pages(server, "STREAM.LIST", "streams", {}):
        found |= {info.name: info for info in map(_stream, page)}
    return [found[name] for name in sorted(found)]


async def stream_info(server: NatsServer, name: str) -> StreamInfo:
    """One stream; raises SourceNotFound."""
    return _stream(await server.api(f"STREAM.INFO.{_checked(name)}"))


async def list_consumers(server: NatsServer, stream: str) -> list[ConsumerInfo]:
    """All consumers of a stream, by name; raises SourceNotFound."""
    found: dict[str, ConsumerInfo] = {}
    async for page in _pages(server, f"CONSUMER.LIST.{_checked(stream)}", "consumers", {}):
        for said in page:
            config = said["config"]
            found[said["name"]] = ConsumerInfo(
                stream, said["name"], bool(config.get("durable_name")), config, said["ack_floor"]["stream_seq"],
                said["delivered"]["stream_seq"], said.get("num_pending", 0), said.get("num_ack_pending", 0),
            )  # fmt: skip
    return [found[name] for name in sorted(found)]


async def subjects_of(server: NatsServer, stream: str, filter: str = ">") -> dict[str, int]:
    """Each subject in the stream with how many messages it has, by subject; raises SourceNotFound."""
    found: dict[str, int] = {}
    while True:
        request = {"subjects_filter": filter, "offset": len(found)}
        answer = await server.api(f"STREAM.INFO.{_checked(stream)}", request)
        page: dict[str, int] = answer["state"].get("subjects") or {}
        before = len(found)
        found |= page
        if len(found) == before or len(found) >= answer.get("total", 0):
            return {subject: found[subject] for subject in sorted(found)}


async def read_stream(
    server: NatsServer, info: StreamInfo, *, first: int, last: int, subject: str | None = None
) -> AsyncGenerator[StreamMessage, None]:
    """Every message from ``first`` to ``last`` that is there, once and in order; what is left out was deleted.

    ``subject`` may hold wildcards.  Memory is bounded, and a server that restarts is waited for.  Raises
    SourceUnavailable once it stayed away too long, SourceChanged if the stream was deleted or made anew meanwhile,
    SourceRefused.
    """
    if info.subjects == (subject,) and not (info.config.get("mirror") or info.config.get("sources")):
        subject = None  # all that is there: without a filter the server need not look at subjects, which costs it much
    fetcher = _fetcher(server, info, subject)
    at, pauses, patience = max(first, 1), iter(_AGAIN), None
    try:
        while True:
            try:
                if patience is not None:
                    await server.connected(patience)
                if patience is not None or at > last:
                    now = await _checked_same(server, info)
                    if isinstance(fetcher, Batches) and not now.config.get("allow_direct"):
                        raise NotItself
                if at > last:
                    return
                messages, following, ended = await fetcher.fetch(at, last)
                if ended and following <= last and isinstance(fetcher, Batches):
                    # A replica that is behind ends early: only the leader knows that nothing follows.
                    left = await get_message(server, info.name, seq=following, next_by_subj=subject or ">")
                    if left is not None and left.sequence <= last:
                        raise NotItself
            except NotItself:
                fetcher.close()
                fetcher = _window(server, info, subject)
                continue
            except (SourceUnavailable, SourceNotFound):
                patience = patience or Deadline(server.patience_s)
                if patience.passed or server.client.ended is not None:
                    raise
                await asyncio.sleep(min(next(pauses), patience.remaining))
                continue
            patience, pauses = None, iter(_AGAIN)
            at = last + 1 if ended else following
            for message in messages:
                if message.sequence > last:
                    break
                yield message if message.malformed is None else await _exact(server, info, message)
    finally:
        fetcher.close()


def _fetcher(server: NatsServer, info: StreamInfo, subject: str | None) -> Fetcher:
    if info.config.get("allow_direct") and server.version >= BATCHES_SINCE:
        return Batches(server, info.name, subject)
    return _window(server, info, subject)


def _window(server: NatsServer, info: StreamInfo, subject: str | None) -> Window:
    largest = info.config.get("max_msg_size", -1)
    return Window(server, info.name, subject, largest if largest > 0 else server.max_payload)


async def _checked_same(server: NatsServer, info: StreamInfo) -> StreamInfo:
    """The stream as it is now; raises SourceChanged if it is another one."""
    try:
        now = await stream_info(server, info.name)
    except SourceNotFound:
        raise SourceChanged(f"stream {info.name!r} was deleted while it was read") from None
    if now.created != info.created:
        raise SourceChanged(f"stream {info.name!r} was deleted and made anew while it was read ({now.created})")
    return now


async def _exact(server: NatsServer, info: StreamInfo, message: StreamMessage) -> StreamMessage:
    """The same message with its header block to the last byte, of which a direct get may cut two."""
    whole = await get_message(server, info.name, seq=message.sequence)
    return whole or message


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot be the name of a stream: no dot, blank, *, >, / or \\ stands in one")
    return name


async def _pages(
    server: NatsServer, subject: str, field: str, request: Mapping[str, Any]
) -> AsyncGenerator[list[dict[str, Any]], None]:
    offset = 0
    while True:
        answer = await server.api(subject, {**request, "offset": offset})
        missing = answer.get("missing") or answer.get("offline")
        if missing:
            raise SourceUnavailable(
                f"NATS at {server.shown} cannot speak for {', '.join(map(str, missing))} now: is a server of the "
                "cluster away?"
            )
        page = answer.get(field) or []
        yield page
        offset += len(page)
        if not page or offset >= answer.get("total", 0):
            return


def _stream(said: Mapping[str, Any]) -> StreamInfo:
    try:
        config, state = said["config"], said["state"]
        return StreamInfo(
            config["name"], tuple(config.get("subjects") or ()), config, state["messages"], state["bytes"],
            state["first_seq"], state["last_seq"], said["created"],
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise SourceError(f"the server says of a stream what we do not know ({error!r}): {str(said)[:200]}") from None
