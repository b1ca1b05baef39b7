"""A call as its handler sees it, over a session; what nobody has taken of its request is bounded by its credit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from dynlog.call_errors import Cancelled
from dynlog.entity import DynamoEntityID
from dynlog.network.calls import Request
from dynlog.network.frames import Code
from dynlog.record import Buffer
from dynlog.timing import Deadline

if TYPE_CHECKING:
    from dynlog.network.link import Link
    from dynlog.network.services import Service
    from dynlog.network.session_events import Meta
    from dynlog.network.session_stream import Stream

current_call: ContextVar[Request | None] = ContextVar("dynlog_current_call", default=None)
"""The call whose handler runs here: calls that it makes inherit its headers and what is left of its time."""
UNBOUNDED_S = 365 * 86400.0
"""What is left of the time of a call without a deadline."""


class IncomingCall:
    """See `dynlog.network.calls.Request`."""

    __slots__ = (
        "_deadline", "_link", "_meta", "begun", "body", "ended", "gone", "queue", "service", "stream", "task", "tick",
        "waiter", "writer",
    )  # fmt: skip

    def __init__(self, link: Link, service: Service, stream: Stream, meta: Meta, body: bytes | None, end: bool) -> None:
        self._link, self.service, self.stream, self._meta = link, service, stream, meta
        self.body: Buffer = b"" if body is None else body
        self.ended = end
        self.queue: deque[Buffer] | None = None
        if body is None or not end:
            self.queue = deque(() if body is None else (body,))
        self.gone = False
        """Whether nobody waits for the reply any more."""
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.tick = -1
        self.waiter: asyncio.Future[None] | None = None
        self.writer: asyncio.Future[None] | None = None
        self._deadline: Deadline | None = None

    @property
    def target(self) -> DynamoEntityID:
        return self.service.target

    @property
    def topic(self) -> str:
        return self._meta.topic

    @property
    def caller(self) -> DynamoEntityID:
        return self._link.caller_of(self._meta.caller)

    @property
    def headers(self) -> Mapping[str, str]:
        return self._meta.headers

    @property
    def correlation_id(self) -> str:
        return self._meta.correlation_id

    @property
    def attempt(self) -> int:
        return self._meta.attempt

    @property
    def deadline(self) -> Deadline:
        if self._deadline is None:
            at = self.stream.deadline
            self._deadline = Deadline(UNBOUNDED_S if at is None else at - self._link.loop.time())
        return self._deadline

    async def messages(self) -> AsyncIterator[Buffer]:
        if self.queue is None:  # the body is all of it
            yield self.body
            return
        while True:
            while self.queue:
                body = self.queue.popleft()
                self._link.consumed(self.stream, body)
                yield body
            if self.gone:
                raise Cancelled("whoever called is gone", topic=self.topic, correlation_id=self.correlation_id)
            if self.ended:
                return
            self.waiter = self._link.loop.create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None

    # What the link calls.

    def came(self, body: Buffer | None, end: bool) -> None:
        """The caller sent a message, or the end of its request."""
        if body is not None and self.queue is not None:
            self.queue.append(body)
        self.ended = self.ended or end
        wake(self.waiter)

    def lost(self) -> None:
        """Nobody waits for the reply any more: the handler is cancelled."""
        self.gone = True
        wake(self.waiter)
        wake(self.writer)
        # A task that is cancelled before its first step never runs its clean-up: it looks at ``gone`` instead.
        if self.task is not None and self.begun:
            self.task.cancel()

    def expire(self) -> None:
        """The caller's time is over."""
        self._link.fail_call(self, Code.DEADLINE, "", "the deadline passed before the handler was done")


def wake(future: asyncio.Future[None] | None) -> None:
    """Lets whoever waits go on."""
    if future is not None and not future.done():
        future.set_result(None)
