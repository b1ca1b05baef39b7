"""Calls through the log: a request is a record, its reply is another, and neither end has to live while the other does.

One reader per process follows the replies for all calls; what arrived together is handed out together.  Replies are
acknowledged a moment later, many in one record.  A caller that was killed finds the answers to what it had asked under
the same entity id: `LogCaller.resume`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import xxhash

from dynlog.batch import Batch, Position
from dynlog.call_errors import CallOutcomeUnknown, NotSent, Overloaded
from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, ConfigurationError, DynlogError, LogDiverged, OffsetTruncated, TopicNotFound
from dynlog.log import Log
from dynlog.network.calls import Call, ReplyStream
from dynlog.network.deadlines import Deadlines
from dynlog.network.log_clock import LogClock
from dynlog.network.log_keeping import Keeping
from dynlog.network.log_outbox import Done, Outbox
from dynlog.network.log_outgoing import Awaited, Replies
from dynlog.network.log_records import (
    CANCEL,
    DATA,
    END,
    ERROR,
    OPEN,
    PARTITIONS,
    PONG,
    TOMBSTONE,
    CallTopics,
    ident_of,
    meta_of,
    opening,
    pack,
    too_large,
)
from dynlog.network.log_resuming import OpenCall, find_open
from dynlog.reader import Reader
from dynlog.record import Buffer
from dynlog.timing import Backoff

MOST_OPEN = 1 << 16
ACKNOWLEDGE_S = 0.05
ACKNOWLEDGE_AT = 1024
HOLD_S = 5.0
READ_WAIT_S = 20.0
_log = logging.getLogger(__name__)


class LogCaller:
    """A `CallPath` to whoever is served from the topics of that name; opened by `open`.

    Beside what every path raises, a call raises ConfigurationError for a deadline over a day.
    """

    def __init__(self, log: Log, topics: CallTopics, caller: DynamoEntityID) -> None:
        self._log, self._topics, self.caller = log, topics, caller
        self._key = caller.key
        self._name = f"calls:{xxhash.xxh3_64_hexdigest(topics.requests.encode())}:caller:{caller.key.hex()}"
        self._clock = LogClock()
        self._outbox = Outbox(log, self._name, self._clock)
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop)
        self._open: dict[bytes, Awaited] = {}
        self._acknowledged: dict[int, list[tuple[bytes, str]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fetching: set[asyncio.Task[None]] = set()
        self._failure: DynlogError | None = None
        self._reader: Reader | None = None
        self._keeping = Keeping(log, topics, self._name)
        self._made = 1
        self._untaken: set[bytes] = set()
        """Calls of an earlier life whose outcome was not handed out."""
        self.late = 0
        """Replies that came when nobody waited for them any more."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, log: Log, name: str, caller: DynamoEntityID, *, partitions: int = PARTITIONS
    ) -> AsyncIterator[Self]:
        """Makes the topics if need be; an earlier life of the caller is fenced.  Open calls end with the block:
        their requests stay in the log, and so do the answers.  Raises what the log raises."""
        self = cls(log, await CallTopics.make(log, name, partitions), caller)
        await self._outbox.open()
        self._reader = await Reader.open(log, self._topics.replies, "end")
        await self._keeping.begin()
        tasks = [
            asyncio.create_task(self._follow(), name="dynlog-log-replies"),
            asyncio.create_task(self._keep(), name="dynlog-log-caller"),
        ]
        try:
            yield self
        finally:
            await self._close(tasks)

    async def request(self, call: Call, body: Buffer) -> Buffer:
        awaited = await self.open_call(call, body)
        try:
            return await awaited.future
        finally:
            if awaited.ident in self._open:  # cancelled: nobody waits any more
                self.cancel(awaited)

    def stream(self, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> ReplyStream:
        return Replies(self, call, messages)

    async def resume(self) -> list[OpenCall]:
        """The calls that an earlier life of this caller made and whose answers it did not acknowledge.

        Each can be waited for with `OpenCall.reply`, and is found again by the next life until that gave its outcome;
        those whose deadline passed have their outcome in the log, too.
        """
        found = await find_open(self, self._log, self._topics, *self._keeping.first)
        self._keeping.left = False
        return found

    @property
    def seen(self) -> dict[int, int]:
        """How far the replies were read, by partition."""
        assert self._reader is not None
        return {partition: at.offset for partition, at in self._reader.positions.items()}

    def expect(self, call: Call, target: bytes, partition: int) -> Awaited | None:
        """Waits for the outcome of a call that was made in an earlier life; None if it is waited for already."""
        ident = ident_of(self._key, call.correlation_id)
        if ident in self._open:
            return None
        awaited = self._open[ident] = Awaited(self, call, ident, partition)
        awaited.resumed = True
        self._untaken.add(ident)
        return awaited

    def release(self, awaited: Awaited) -> None:
        """The outcome of a call of an earlier life was handed out, now or by that life."""
        self.forget(awaited)
        self._untaken.discard(awaited.ident)

    def open_calls(self) -> list[Call]:
        """What is waited for now."""
        return [awaited.call for awaited in self._open.values()]

    # What calls do

    async def open_call(
        self, call: Call, body: Buffer | None, more: bool = False, replies: Replies | None = None
    ) -> Awaited:
        """Takes the request; raises what no record of it was made for."""
        meta = opening(call, more)
        self._check(call, body)
        call.deadline.check(f"calling {call.topic!r}")
        if self._outbox.full:
            await self._outbox.room()
        ident = ident_of(self._key, call.correlation_id)
        if ident in self._open:
            raise ConfigurationError(f"call {call.correlation_id} is waited for already: use another correlation id")
        awaited = Awaited(self, call, ident, self._topics.partition(call.target, ident))
        awaited.replies = replies
        awaited.made = self._made
        self._made += 1
        self._open[ident] = awaited
        awaited.tick = self._deadlines.add(awaited, self._loop.time() + call.deadline.remaining)
        parts = (meta,) if body is None else (meta, body)
        self._outbox.put(self._topics.requests, awaited.partition, call.target.key, OPEN, parts, awaited.stored)
        return awaited

    def go_on(self, awaited: Awaited, message: Buffer | None, done: Done | None) -> None:
        """A further message of the request, or None for its end."""
        call = awaited.call
        meta = pack((self._key, call.correlation_id))
        if message is None:
            self._outbox.put(self._topics.requests, awaited.partition, call.target.key, END, (meta,), done)
            return
        self._check(call, message)
        self._outbox.put(self._topics.requests, awaited.partition, call.target.key, DATA, (meta, message), done)

    def cancel(self, awaited: Awaited) -> None:
        """Nobody waits for the call any more: its handler is to stop, unless its outcome is there."""
        if self.forget(awaited):
            meta = pack((self._key, awaited.call.correlation_id))
            self._outbox.put(self._topics.requests, awaited.partition, awaited.call.target.key, CANCEL, (meta,))

    def forget(self, awaited: Awaited) -> bool:
        """Whether it was still waited for."""
        if self._open.pop(awaited.ident, None) is None:
            return False
        if awaited.tick >= 0:
            self._deadlines.discard(awaited, awaited.tick)
        return True

    def _check(self, call: Call, body: Buffer | None) -> None:
        if self._failure is not None or self._outbox.failure is not None:
            error = self._failure or self._outbox.failure
            raise NotSent(
                f"the log path is over: {error}", peer=str(call.target), topic=call.topic,
                correlation_id=call.correlation_id,
            )  # fmt: skip
        if len(self._open) >= MOST_OPEN:
            raise Overloaded(f"{MOST_OPEN} calls are open here", topic=call.topic, correlation_id=call.correlation_id)
        if body is not None and len(body) > self._topics.max_message:
            raise too_large(len(body), self._topics.max_message, "a request", call.topic, call.correlation_id)

    # What comes back

    async def _follow(self) -> None:
        assert self._reader is not None
        pauses = iter(Backoff())
        while True:
            try:
                batch = await self._reader.next(READ_WAIT_S)
            except (OffsetTruncated, LogDiverged, TopicNotFound) as error:
                _log.error("the replies to the calls of %s are lost: %s", self.caller, error)
                self._failure = error
                self._give_up(f"its reply cannot be read any more: {error}")
                return
            except DynlogError as error:
                _log.warning("replies cannot be read: %s", error)
                await asyncio.sleep(next(pauses))
                continue
            pauses = iter(Backoff())
            if batch is not None:
                self.take(batch)

    def take(self, batch: Batch) -> None:
        """Hands out the replies that are for this caller."""
        controls, key = batch.columns.controls, self._key
        if controls is None:
            return
        for index, owner in enumerate(batch.keys):
            control = controls[index]
            if owner != key or control == TOMBSTONE:
                continue
            body = batch.bodies[index]
            meta = meta_of(body)
            if meta is None or len(meta) < 4:
                continue
            awaited = self._open.get(ident_of(key, meta[1]))
            if awaited is None:
                self.late += control in (END, ERROR)
            elif control == PONG:
                self._fetch(awaited, batch, int(meta[2]), int(meta[3]))
            elif awaited.came(control, meta, body):
                self.forget(awaited)
                if not awaited.resumed:
                    self.acknowledge(batch.partition, meta[0], meta[1])

    def _fetch(self, awaited: Awaited, batch: Batch, first: int, last: int) -> None:
        """The call was answered before: reads that answer where it lies."""
        at = Position(batch.topic, batch.incarnation, batch.partition, first)
        task = asyncio.create_task(self._read_again(awaited, at, last), name="dynlog-first-answer")
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _read_again(self, awaited: Awaited, at: Position, last: int) -> None:
        try:
            while at.offset <= last and awaited.ident in self._open:
                batch = await self._log.read(at)
                if not batch.offsets and batch.next_offset == at.offset:
                    break
                self.take(batch.slice(0, sum(offset <= last for offset in batch.offsets)))
                at = batch.next_position
        except DynlogError as error:
            self.forget(awaited)
            awaited.failed(CallOutcomeUnknown(
                f"it was answered, and the answer cannot be read: {error}",
                topic=awaited.call.topic, correlation_id=awaited.call.correlation_id,
            ))  # fmt: skip

    # Acknowledgements and what is kept

    def acknowledge(self, partition: int, target: bytes, name: str) -> None:
        """That reply was handed out and may be forgotten."""
        names = self._acknowledged.setdefault(partition, [])
        names.append((target, name))
        if len(names) >= ACKNOWLEDGE_AT:
            self._say_acknowledged()
        elif self._timer is None:
            self._timer = self._loop.call_later(ACKNOWLEDGE_S, self._say_acknowledged)

    def _say_acknowledged(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        told, self._acknowledged = self._acknowledged, {}
        for partition, names in told.items():
            self._outbox.put(self._topics.replies, partition, self._key, TOMBSTONE, (pack(names),))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(HOLD_S)
            try:
                await self._keeping.move(self._numbers)
            except DynlogError as error:
                _log.warning("the caller's place in the log is not kept: %s", error)

    def _numbers(self) -> tuple[int, int]:
        """Of the oldest open call and of the next one; all calls of an earlier life have 0."""
        if self._untaken:
            return 0, self._made
        oldest = next(iter(self._open.values()), None)
        return self._made if oldest is None else oldest.made, self._made

    def _give_up(self, why: str) -> None:
        for awaited in list(self._open.values()):
            self.forget(awaited)
            place = {"topic": awaited.call.topic, "correlation_id": awaited.call.correlation_id}
            awaited.failed(CallOutcomeUnknown(why, **place))

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        self._failure = Closed("this caller was closed")
        for task in [*tasks, *self._fetching]:
            task.cancel()
        self._give_up("the caller was closed; resume() finds the answer")
        self._say_acknowledged()
        await asyncio.gather(*tasks, *self._fetching, return_exceptions=True)
        try:
            await self._outbox.close()
        finally:
            self._deadlines.close()
            assert self._reader is not None
            await self._reader.close()
