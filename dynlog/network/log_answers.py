"""What a lane answers: the first outcome of a call is its answer, and a call is open until the fold has seen it.

Replies and outcomes go to the caller's partition of the replies by way of the outbox, which keeps their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dynlog.entity import DynamoEntityID
from dynlog.errors import DynlogError
from dynlog.log import Log
from dynlog.network.deadlines import Deadlines
from dynlog.network.log_clock import LogClock
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_outbox import Outbox
from dynlog.network.log_records import DATA, END, ERROR, PONG, CallTopics, lane_name, pack
from dynlog.network.reply_cache import Answer
from dynlog.network.services import Services
from dynlog.record import Buffer, Control


@dataclass(frozen=True, slots=True)
class Shared:
    """What the lanes of a server share."""

    log: Log
    topics: CallTopics
    services: Services
    clock: LogClock
    deadlines: Deadlines
    grace_s: float


class Answers:
    """The answering half of a `Lane`."""

    def __init__(self, shared: Shared, target: DynamoEntityID, partition: int) -> None:
        self.shared, self.target, self.partition = shared, target, partition
        self.calls: dict[bytes, LogRequest] = {}
        """Calls that have no outcome yet that the fold has seen, in the order of their requests."""
        self.again = 0
        """Calls that were made again and told their first answer."""
        self._key = target.key
        self._name = lane_name(shared.topics, target.key, partition)
        self._outbox = self.new_outbox()
        self._said: deque[tuple[int, bytes]] = deque()
        self._broken: DynlogError | None = None
        self._folded = 0
        self._quiet = asyncio.Event()
        self._work = asyncio.Event()

    def new_outbox(self) -> Outbox:
        """What the next term says goes through an outbox of its own, under the next epoch."""
        return Outbox(self.shared.log, self._name, self.shared.clock)

    def _again(self, call: LogRequest, answer: Answer) -> None:
        self.again += 1
        meta = pack((self._key, call.correlation_id, answer.first, answer.last))
        self._outbox.put(self.shared.topics.replies, self.partition, call.caller_key, PONG, (meta,))

    def reply(self, call: LogRequest, body: Buffer | None, effects: bytes | None) -> None:
        """The outcome of a call that went well; ``body`` is None at the end of a stream."""
        meta = pack((self._key, call.correlation_id, call.offset, call.deadline_ms, body is None))
        parts = (meta, b"" if body is None else body)
        self._outcome(call, END, parts if effects is None else (*parts, effects))

    def give(self, call: LogRequest, body: Buffer) -> None:
        """One of many replies."""
        meta = pack((self._key, call.correlation_id, call.offset, call.deadline_ms, call.number))
        call.number += 1
        call.unsettled += 1
        self._put(call, DATA, (meta, body), call.settled)

    def fail(self, call: LogRequest, code: int, kind: str, text: str) -> None:
        """The outcome of a call that did not go well; a handler at work on it is stopped."""
        if not call.over:
            self._outcome(call, ERROR, self._error(call, code, kind, text))
            if call.task is not None and call.task is not asyncio.current_task():
                call.stop()

    def _error(self, call: LogRequest, code: int, kind: str, text: str) -> tuple[Buffer, ...]:
        text = text.encode()[:4096].decode(errors="ignore")
        return (pack((self._key, call.correlation_id, call.offset, call.deadline_ms, int(code), kind, text)),)

    def _outcome(self, call: LogRequest, control: Control, parts: tuple[Buffer, ...]) -> None:
        if call.over:
            return
        call.over = True
        if call.tick >= 0:
            self.shared.deadlines.discard(call, call.tick)
        self._put(call, control, parts, partial(self._is_said, call.ident))

    def _put(
        self,
        call: LogRequest,
        control: Control,
        parts: tuple[Buffer, ...],
        done: Callable[[int, Any], None] | None = None,
    ) -> None:
        self._outbox.put(self.shared.topics.replies, self.partition, call.caller_key, control, parts, done)

    def _is_said(self, ident: bytes, offset: int, error: DynlogError | None) -> None:
        if error is not None:
            self._broken = error
            self._work.set()
        elif offset < self._folded:
            self._drop(ident)
        else:
            self._said.append((offset, ident))

    def _drop(self, ident: bytes) -> None:
        self.calls.pop(ident, None)
        if not self.calls:
            self._quiet.set()
