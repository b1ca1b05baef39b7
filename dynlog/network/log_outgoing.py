"""A call as its caller waits for it, over the log: its outcome is the first one that the log has for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynlog.call_errors import CallOutcomeUnknown, Cancelled, MessageTooLarge, NotSent
from dynlog.errors import (
    BatchTooLarge,
    ConfigurationError,
    DynlogError,
    LogFull,
    LogUnavailable,
    OutcomeUnknown,
)
from dynlog.network.calls import Call
from dynlog.network.incoming import wake
from dynlog.network.log_records import DATA, END, ERROR
from dynlog.network.outgoing import error_of, too_late
from dynlog.record import Buffer
from dynlog.tasks import end_task

if TYPE_CHECKING:
    from dynlog.network.log_caller import LogCaller

MOST_QUEUED_BYTES = 64 << 20
"""Of replies that came and that nobody has taken; the log cannot make their server wait."""
AT_ONCE = 64
"""Messages of one request that are not durable yet before the next is asked for."""


class Awaited:
    """One call whose outcome is to come."""

    __slots__ = (
        "_number",
        "answered",
        "call",
        "caller",
        "future",
        "ident",
        "last",
        "made",
        "partition",
        "replies",
        "resumed",
        "sent",
        "tick",
    )

    def __init__(self, caller: LogCaller, call: Call, ident: bytes, partition: int) -> None:
        self.caller, self.call, self.ident, self.partition = caller, call, ident, partition
        self.future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
        self.replies: Replies | None = None
        """Who takes a stream of replies."""
        self.sent = self.resumed = self.answered = False
        self.made = 0
        """Numbers the calls of this life in the order in which they were made."""
        self.tick = -1
        self._number = 0
        self.last: Buffer | None = None

    def came(self, control: int, meta: list[Any], body: Any) -> bool:
        """A record of the replies to it; whether that was the outcome."""
        if control == DATA:
            if meta[4] != self._number:
                return False  # of an owner of the lane that stopped: its successor says so
            self._number += 1
            self._one(body[1])
            return False
        self.answered = True
        if control == END:
            stream = bool(meta[4])
            if not stream:
                self._one(body[1])
            self._end()
        elif control == ERROR:
            self.failed(error_of(int(meta[4]), str(meta[5]), str(meta[6]), self.call, str(self.call.target)))
        return True

    def _one(self, body: Buffer) -> None:
        if self.replies is not None:
            self.replies.came(body)
        else:
            self.last = body if self._number <= 1 else None

    def _end(self) -> None:
        if self.replies is not None:
            self.replies.ended()
        elif self.last is None:
            self.failed(
                error_of(
                    1,
                    "WrongReply",
                    "not one reply came; ask for a stream if there may be any number",
                    self.call,
                    str(self.call.target),
                )
            )
        elif not self.future.done():
            self.future.set_result(self.last)

    def failed(self, error: Exception) -> None:
        """There will be no (further) reply."""
        if self.replies is not None:
            self.replies.failed(error)
        elif not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # seen, also if whoever called is gone

    def stored(self, offset: int, error: DynlogError | None) -> None:
        """The request is durable, or is not known to be."""
        if error is None:
            self.sent = True
        else:
            self.caller.forget(self)
            self.failed(_unsent(error, self.call))

    def expire(self) -> None:
        """The caller's time is over."""
        self.caller.cancel(self)
        self.failed(too_late(self.call, str(self.call.target)))


class Replies:
    """A call for a stream of replies; see `dynlog.network.calls.ReplyStream`."""

    def __init__(self, caller: LogCaller, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> None:
        self._caller, self._call, self._messages = caller, call, messages
        self._queue: deque[Buffer] = deque()
        self._queued = 0
        self._awaited: Awaited | None = None
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._unsettled = 0

    async def __aenter__(self) -> Self:
        if isinstance(self._messages, AsyncIterable):
            messages = aiter(self._messages)
            first = await anext(messages, None)
            self._awaited = await self._caller.open_call(self._call, first, first is not None, self)
            if first is not None:
                self._sender = asyncio.create_task(self._send(messages), name=f"dynlog-request {self._call.topic}")
        else:
            self._awaited = await self._caller.open_call(self._call, self._messages, False, self)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Buffer:
        if self._awaited is None:
            raise ConfigurationError("a stream of replies is used as in: async with path.stream(...) as replies:")
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        body = self._queue.popleft()
        self._queued -= len(body)
        return body

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._awaited is not None
        self._caller.cancel(self._awaited)
        if self._sender is not None:
            await end_task(self._sender)

    async def _send(self, messages: Any) -> None:
        """The rest of the request, as fast as the log takes it."""
        assert self._awaited is not None
        try:
            async for message in messages:
                if self._ended or self._error is not None:
                    return
                self._unsettled += 1
                self._caller.go_on(self._awaited, message, self._settled)
                while self._unsettled >= AT_ONCE and self._error is None:
                    self._writer = asyncio.get_running_loop().create_future()
                    try:
                        await self._writer
                    finally:
                        self._writer = None
            self._caller.go_on(self._awaited, None, None)
        except Exception as error:  # the caller's own iterator failed, or a message is too large
            self._caller.cancel(self._awaited)
            self.failed(error)

    def _settled(self, offset: int, error: DynlogError | None) -> None:
        self._unsettled -= 1
        wake(self._writer)
        if error is not None and self._awaited is not None:
            self._caller.cancel(self._awaited)
            self.failed(_unsent(error, self._call))

    def came(self, body: Buffer) -> None:
        """A reply."""
        if self._error is not None:
            return
        self._queue.append(body)
        self._queued += len(body)
        if self._queued > MOST_QUEUED_BYTES and self._awaited is not None:
            self._caller.cancel(self._awaited)
            self.failed(
                Cancelled(
                    f"over {MOST_QUEUED_BYTES} bytes of replies came and were not taken; those that came are given",
                    topic=self._call.topic,
                    correlation_id=self._call.correlation_id,
                )
            )
        wake(self._waiter)

    def ended(self) -> None:
        """That was the last one."""
        self._ended = True
        wake(self._waiter)
        wake(self._writer)

    def failed(self, error: Exception) -> None:
        """No reply follows; those that came are given first."""
        if self._error is None and not self._ended:
            self._error = error
        wake(self._waiter)
        wake(self._writer)


def _unsent(error: DynlogError, call: Call) -> DynlogError:
    """What a caller is told when its request is not known to be in the log."""
    place = {"peer": str(call.target), "topic": call.topic, "correlation_id": call.correlation_id}
    if isinstance(error, BatchTooLarge):
        return MessageTooLarge(f"put it into an object store and send its key: {error}", **place)
    if isinstance(error, OutcomeUnknown):
        return CallOutcomeUnknown(f"the request may or may not be in the log: {error}", **place)
    if isinstance(error, LogUnavailable | LogFull):
        return NotSent(f"the log took no request: {error}", **place)
    return NotSent(f"the request was not appended: {error}", **place)
