"""A call as its handler sees it, over the log; beside what every request has there are its effects."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

from dynlog.call_errors import Cancelled
from dynlog.entity import DynamoEntityID
from dynlog.network.incoming import wake
from dynlog.network.log_effects import Effects
from dynlog.network.log_records import Opening, entity_of
from dynlog.record import Buffer
from dynlog.timing import Deadline

if TYPE_CHECKING:
    from dynlog.network.services import Service

MOST_QUEUED_BYTES = 16 << 20
"""Of messages that came and that the handler has not taken; the log cannot make their sender wait."""
MOST_QUEUED = 1 << 16
AT_ONCE = 64
"""Replies of one stream that are not durable yet before its handler is made to wait."""


class LogRequest:
    """See `dynlog.network.calls.Request`; ``effects`` happen exactly if this call's reply becomes its answer."""

    __slots__ = (
        "_deadline", "_effects", "_meta", "_queued", "attempt", "begun", "body", "caller_key", "deadline_ms", "ended",
        "expires_at", "ident", "number", "offset", "on_expiry", "over", "queue", "service", "target", "task", "tick",
        "unsettled", "waiter", "writer",
    )  # fmt: skip

    def __init__(
        self,
        target: DynamoEntityID,
        caller: bytes,
        ident: bytes,
        offset: int,
        meta: Opening,
        body: bytes | None,
        deadline_ms: int,
    ) -> None:
        self.target, self.caller_key, self.ident, self.offset, self._meta = target, caller, ident, offset, meta
        self.body: Buffer = b"" if body is None else body
        self.ended = not meta.more
        self.queue: deque[Buffer] | None = None
        if body is None or meta.more:
            self.queue = deque(() if body is None else (body,))
        self._queued = 0
        self.deadline_ms = deadline_ms
        self.attempt = meta.attempt
        self.service: Service
        """Set before it is begun."""
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.over = False
        """Whether its outcome is said, or nobody here has to say it any more."""
        self.tick = -1
        self.expires_at = 0.0
        self.on_expiry: Callable[[LogRequest], None] | None = None
        self.number = self.unsettled = 0
        self.waiter: asyncio.Future[None] | None = None
        self.writer: asyncio.Future[None] | None = None
        self._effects: Effects | None = None
        self._deadline: Deadline | None = None

    @property
    def gone(self) -> bool:
        """See `dynlog.network.turns.Handled`."""
        return self.over

    @property
    def topic(self) -> str:
        return self._meta.topic

    @property
    def caller(self) -> DynamoEntityID:
        return entity_of(self._meta.caller)

    @property
    def headers(self) -> Mapping[str, str]:
        return self._meta.headers

    @property
    def correlation_id(self) -> str:
        return self._meta.correlation_id

    @property
    def deadline(self) -> Deadline:
        if self._deadline is None:
            self._deadline = Deadline(self.expires_at - asyncio.get_running_loop().time())
        return self._deadline

    @property
    def effects(self) -> Effects:
        """Records that are appended, each once, if and only if the reply of this very run becomes the answer."""
        if self._effects is None:
            self._effects = Effects()
        return self._effects

    @property
    def has_effects(self) -> bool:
        """Whether the handler asked for any."""
        return bool(self._effects)

    async def messages(self) -> AsyncIterator[Buffer]:
        if self.queue is None:  # the body is all of it
            yield self.body
            return
        while True:
            while self.queue:
                body = self.queue.popleft()
                self._queued -= len(body)
                yield body
            if self.over:
                raise Cancelled("whoever called is gone", topic=self.topic, correlation_id=self.correlation_id)
            if self.ended:
                return
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None

    # What the lane calls.

    def came(self, body: Buffer | None) -> bool:
        """A message, or the end of them; False if it is more than may wait here."""
        if body is None:
            self.ended = True
        elif self.queue is not None:
            self.queue.append(body)
            self._queued += len(body)
            if self._queued > MOST_QUEUED_BYTES or len(self.queue) > MOST_QUEUED:
                return False
        wake(self.waiter)
        return True

    def stop(self) -> None:
        """Nobody waits for what the handler does."""
        self.over = True
        wake(self.waiter)
        wake(self.writer)
        # A task that is cancelled before its first step never runs its clean-up: it looks at ``over`` instead.
        if self.task is not None and self.begun:
            self.task.cancel()

    def expire(self) -> None:
        """The caller's time is over."""
        if self.on_expiry is not None:
            self.on_expiry(self)

    def settled(self, offset: int, error: object) -> None:
        """One of its replies is durable, or will not be."""
        self.unsettled -= 1
        wake(self.writer)

    async def turn(self) -> None:
        """Waits while too many of its replies are not durable yet."""
        while self.unsettled >= AT_ONCE and not self.over:
            self.writer = asyncio.get_running_loop().create_future()
            try:
                await self.writer
            finally:
                self.writer = None
