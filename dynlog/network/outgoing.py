"""A call as its caller waits for it, over a session: it resolves exactly once, whatever peer and channel do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dynlog.call_errors import (
    CallError,
    CallOutcomeUnknown,
    Cancelled,
    Draining,
    Expired,
    HandlerFailed,
    MessageTooLarge,
    NoSuchTopic,
    NotSent,
    Overloaded,
)
from dynlog.errors import ConfigurationError, DeadlineExceeded, DynlogError
from dynlog.network.calls import Call
from dynlog.network.frames import Code
from dynlog.network.incoming import wake
from dynlog.prompt import Prompt
from dynlog.record import Buffer
from dynlog.tasks import end_task

if TYPE_CHECKING:
    from dynlog.network.link import Link
    from dynlog.network.session_stream import Stream


class Unary:
    """A call for one reply."""

    __slots__ = ("call", "first", "future", "link", "stream", "tick")

    def __init__(self, link: Link, call: Call, stream: Stream) -> None:
        self.link, self.call, self.stream = link, call, stream
        self.future: Prompt[Buffer] = Prompt(link.loop)
        self.first: Buffer | None = None
        self.tick = -1

    def came(self, body: Buffer | None, end: bool) -> None:
        """The peer sent a reply, or says that there is none."""
        if body is None:
            body, self.first = self.first, None
        if self.first is not None or body is None or not end:
            if self.first is None and body is not None:
                self.first = body  # the end may follow by itself
                return
            self.link.session.cancel(self.stream, "one reply was asked for")
            self.failed(_odd(self.call, "no reply" if body is None else "more than one reply", self.link))
        elif not self.future.done():
            self.future.settle(body)
            self.link.settled.append(self.future)

    def failed(self, error: Exception) -> None:
        """There will be no reply."""
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        """The caller's time is over."""
        if not self.future.done():
            self.link.session.cancel(self.stream, "the deadline passed")
            self.link.wake()
            self.failed(too_late(self.call, self.link.peer_name))


class OutgoingStream:
    """A call for a stream of replies; see `dynlog.network.calls.ReplyStream`."""

    def __init__(self, link: Link, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> None:
        self.link, self.call = link, call
        self._messages = messages
        self._stream: Stream | None = None
        self._queue: deque[Buffer] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._tick = -1
        self.writer: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        many = isinstance(self._messages, AsyncIterable)
        if isinstance(self._messages, AsyncIterable):
            messages = aiter(self._messages)
            first = await anext(messages, None)
            body, end = first, first is None
        else:
            body, end = self._messages, True
        self._stream = await self.link.open(self.call, body, end, self)
        self._tick = self.link.deadlines.add(self, self._stream.deadline or 0.0)
        if many and not end:
            self._sender = asyncio.create_task(self._send(messages), name=f"dynlog-request {self.call.topic}")
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Buffer:
        if self._stream is None:
            raise ConfigurationError("a stream of replies is used as in: async with path.stream(...) as replies:")
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self.link.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        body = self._queue.popleft()
        self.link.consumed(self._stream, body)
        return body

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._stream is not None
        self.link.deadlines.discard(self, self._tick)
        if not self._stream.over and not self.link.session.over:
            self.link.session.cancel(self._stream, "whoever called wants no more")
            self.link.wake()
        if self._sender is not None:
            await end_task(self._sender)

    async def _send(self, messages: object) -> None:
        """The rest of the request, as the handler takes it."""
        assert self._stream is not None
        try:
            async for message in messages:  # type: ignore[attr-defined]
                await self.link.write(self._stream, message, False, self)
                if self._stream.over:
                    return
            self.link.session.finish(self._stream)
            self.link.wake()
        except Exception as error:  # the caller's own iterator failed, or a message is too large
            self.link.session.cancel(self._stream, f"its request failed: {type(error).__name__}")
            self.link.wake()
            self.failed(error)

    def came(self, body: Buffer | None, end: bool) -> None:
        """The peer sent a reply, or the end of them."""
        if body is not None:
            self._queue.append(body)
        self._ended = self._ended or end
        wake(self._waiter)

    def failed(self, error: Exception) -> None:
        """No reply follows; those that came are given first."""
        if self._error is None and not self._ended:
            self._error = error
        wake(self._waiter)
        wake(self.writer)

    def expire(self) -> None:
        """The caller's time is over."""
        assert self._stream is not None
        if not self._stream.over:
            self.link.session.cancel(self._stream, "the deadline passed")
            self.link.wake()
            self.failed(too_late(self.call, self.link.peer_name))


_ERRORS: dict[int, type[CallError]] = {
    Code.CANCELLED: Cancelled,
    Code.OVERLOADED: Overloaded,
    Code.DRAINING: Draining,
    Code.NO_SUCH_TOPIC: NoSuchTopic,
    Code.TOO_LARGE: MessageTooLarge,
    Code.EXPIRED: Expired,
    Code.NOT_BEGUN: NotSent,
    Code.UNKNOWN_OUTCOME: CallOutcomeUnknown,
}


def error_of(code: int, kind: str, text: str, call: Call, peer: str) -> DynlogError:
    """What a caller is told of an ERROR record; a code that is not known reads as a handler's failure."""
    place = {"peer": peer, "topic": call.topic, "correlation_id": call.correlation_id}
    if code == Code.DEADLINE:
        return too_late(call, peer)
    if (error := _ERRORS.get(code)) is not None:
        return error(text, **place)
    return HandlerFailed(kind, text, **place)


def lost(call: Call, sent: bool, peer: str, why: Exception | None) -> CallError:
    """What a caller is told when the session ended under its call."""
    place = {"peer": peer, "topic": call.topic, "correlation_id": call.correlation_id}
    reason = f": {why}" if why is not None else ""
    if sent:
        return CallOutcomeUnknown(f"the session ended before there was an answer{reason}", **place)
    return NotSent(f"the session ended before the call left{reason}", **place)


def too_late(call: Call, peer: str) -> DeadlineExceeded:
    """What a caller is told when its time is over."""
    return DeadlineExceeded(
        f"no reply in time; the handler may have run (peer {peer}, topic {call.topic}, call {call.correlation_id})"
    )


def _odd(call: Call, what: str, link: Link) -> HandlerFailed:
    return HandlerFailed(
        "WrongReply", f"{what}; ask for a stream if there may be any number",
        peer=link.peer_name, topic=call.topic, correlation_id=call.correlation_id,
    )  # fmt: skip
