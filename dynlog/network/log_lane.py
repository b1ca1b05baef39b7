"""A lane: the calls of one target in one partition, served by one owner at a time, each answered by its first outcome.

An owner takes the lane over by the next epoch and a BARRIER among the replies, folds them up to it, and only then
serves: whatever an older owner still sends is refused by its epoch, or by every reader.  What it finds unanswered runs
again, with a higher attempt if somebody may have begun it, and the outcome with all its effects is one record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from dynlog.batch import Batch, Position
from dynlog.dedupe import DedupeTable
from dynlog.delivery import DeliveryPolicy
from dynlog.entity import DynamoEntityID
from dynlog.errors import DynlogError, OffsetTruncated, ProducerFenced
from dynlog.network.frames import Code
from dynlog.network.log_answers import Answers, Shared
from dynlog.network.log_effects import append_all
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_records import (
    BARRIER,
    CANCEL,
    CREDIT,
    DATA,
    END,
    ERROR,
    GOAWAY,
    OPEN,
    Opening,
    caller_key,
    ident_of,
    meta_of,
    pack,
)
from dynlog.network.log_running import LaneAnswers
from dynlog.network.reply_cache import BY_CALLER, Known, ReplyCache
from dynlog.network.turns import Turns
from dynlog.record import Control
from dynlog.topics import Holder, HolderKind

READ_WAIT_S = 20.0
FOLD_S = 0.02
"""While it is busy a lane folds what it said itself many at a time, since nobody waits for that; else it reads at once,
so that a successor is noticed soon."""
CHECKPOINT_S = 1.0
MOST_EFFECTS_BYTES = 8 << 20
"""Of effects that are not known to be appended; with more of them the lane begins no further calls for a while."""
MOST_ANSWERS = 1 << 20
"""Replies that nobody acknowledged; with more of them the lane refuses further calls."""
_log = logging.getLogger(__name__)


class Lane(Answers):
    """Serves until `stop`, or until somebody else took the lane over; `term` raises ProducerFenced then."""

    def __init__(self, shared: Shared, target: DynamoEntityID, partition: int) -> None:
        super().__init__(shared, target, partition)
        self.cache = ReplyCache(target.key)
        self.late = 0
        """Calls whose deadline had passed before they began."""
        self.lost = 0
        """Effects whose topic was deleted, or made anew with fewer partitions, between the reply and their append."""
        self.serving = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self.turns: Turns[LogRequest] = Turns(LaneAnswers(self), self._runs)
        self._term = 0
        self._told = (-1, -1)
        self._read = self._first = 0
        self._appended = -1
        self._held = -1
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begins nothing more; `term` returns once what runs is done, or the grace is over."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Waits for `stop`."""
        await self._stopping.wait()

    async def term(self) -> None:
        """Takes the lane over and serves it.  Raises ProducerFenced, and what the log raises; may be called again."""
        self._outbox = self.new_outbox()
        self.cache, self._told, self._broken = ReplyCache(self.target.key), (-1, -1), None
        self._appended = self._held = -1
        tasks: list[asyncio.Task[None]] = []
        try:
            replies, requests, dedupe = await self._take_over()
            tasks = [
                asyncio.create_task(self._follow(replies, dedupe, self._fold), name=f"dynlog-replies {self.target}"),
                asyncio.create_task(self._serve(requests), name=f"dynlog-requests {self.target}"),
                asyncio.create_task(self._keep(replies.incarnation), name=f"dynlog-effects {self.target}"),
            ]
            stop = asyncio.create_task(self._stopping.wait())
            self.serving.set()
            try:
                done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            finally:
                stop.cancel()
            for task in done - {stop}:
                task.result()
            await self._drain(tasks[1])
        finally:
            self.serving.clear()
            await self._end(tasks)

    async def _take_over(self) -> tuple[Position, Position, DedupeTable | None]:
        log, topics = self.shared.log, self.shared.topics
        await self._outbox.open()
        end = await log.position(topics.requests, self.partition, "end")
        where = asyncio.get_running_loop().create_future()
        self._tell(BARRIER, (end.offset,), partial(_resolve, where))
        barrier = await where
        dedupe = None if log.capabilities.checks_marks else DedupeTable()
        at = await log.position(topics.replies, self.partition)
        while at.offset <= barrier:
            batch = await log.read(at, wait=READ_WAIT_S)
            self.cache.apply(dedupe.filter(batch) if dedupe is not None else batch)
            at = batch.next_position
        self._folded, self._term = at.offset, self.cache.term
        first = await log.position(topics.requests, self.partition)
        start = first._replace(offset=min(max(self.cache.done_before, first.offset), end.offset))
        self._read = self._first = start.offset
        await self._hold()
        return at, start, dedupe

    async def _drain(self, requests: asyncio.Task[None]) -> None:
        requests.cancel()
        await asyncio.wait([requests])
        with suppress(TimeoutError):
            async with asyncio.timeout(self.shared.grace_s):
                while self.calls or self._owed():
                    self._quiet.clear()
                    await self._quiet.wait()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        """What still runs is left to the next owner, with a higher attempt."""
        for call in self.calls.values():
            self.shared.deadlines.discard(call, call.tick)
            call.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._running, return_exceptions=True)
        if tasks and self._outbox.failure is None:
            self._credit()
            self._tell(GOAWAY, (self._read,))
        self.calls.clear()
        self._said.clear()
        await self._outbox.close(max(self.shared.grace_s, 1.0))

    async def _follow(self, at: Position, dedupe: DedupeTable | None, take: Callable[[Batch], None]) -> None:
        while True:
            batch = await self.shared.log.read(at, wait=READ_WAIT_S)
            take(dedupe.filter(batch) if dedupe is not None else batch)
            at = batch.next_position
            if self.calls:
                await asyncio.sleep(FOLD_S)

    # Requests

    async def _serve(self, at: Position) -> None:
        log = self.shared.log
        dedupe = None if log.capabilities.checks_marks else DedupeTable()
        while True:
            batch = await log.read(at, wait=READ_WAIT_S)
            self._take(dedupe.filter(batch) if dedupe is not None else batch)
            at = batch.next_position
            self._read = at.offset
            if self._outbox.full:
                await self._outbox.room()
            while self.cache.effects_bytes > MOST_EFFECTS_BYTES:
                self._room.clear()
                await self._room.wait()
            if self._outbox.failure is not None:
                raise self._outbox.failure

    def _take(self, batch: Batch) -> None:
        controls, mine = batch.columns.controls, self._key
        if controls is None or not len(batch):
            return
        self.shared.clock.observe(batch.log_times[-1])
        for index, key in enumerate(batch.keys):
            if key != mine:
                continue
            body, control = batch.bodies[index], controls[index]
            meta = meta_of(body)
            try:
                if meta is None:
                    self.cache.malformed += 1
                elif control == OPEN:
                    self._open(batch.offsets[index], batch.log_times[index], Opening(*meta), body)
                elif (call := self.calls.get(ident_of(meta[0], meta[1]))) is not None and not call.over:
                    self._go_on(call, control, body)
            except (TypeError, ValueError, IndexError, DynlogError):  # nobody's caller writes such a thing
                self.cache.malformed += 1

    def _open(self, offset: int, time_ms: int, meta: Opening, body: Any) -> None:
        caller = caller_key(meta.caller)
        ident = ident_of(caller, meta.correlation_id)
        if ident in self.calls:
            return  # its outcome is to come
        known, answer = self.cache.find(ident, offset)
        deadline_ms = time_ms + meta.budget_ms
        call = LogRequest(self.target, caller, ident, offset, meta, body[1] if len(body) > 1 else None, deadline_ms)
        if known is Known.ANSWERED:
            if answer is not None and offset > answer.request:
                self._again(call, answer)
            return
        if known is Known.EXPIRED:
            self._put(call, ERROR, self._error(call, Code.EXPIRED, "", "it was answered, and its reply is gone"))
            return
        self.calls[ident] = call
        if known is Known.BROKEN:
            self.fail(call, Code.UNKNOWN_OUTCOME, "", "its server stopped in the midst of its replies")
            return
        left = (deadline_ms - self.shared.clock.now_ms()) / 1000.0
        if left <= 0:
            self.late += 1
            self.fail(call, Code.DEADLINE, "", "the deadline had passed before it was begun")
            return
        service = self.shared.services.find(self._key, meta.topic)
        if service is None:
            self.fail(call, Code.NO_SUCH_TOPIC, "", f"nobody serves {meta.topic!r} of that entity here")
            return
        call.service = service
        call.attempt += self.cache.begun(offset)
        call.expires_at = self._loop.time() + left
        call.on_expiry = self._expired
        call.tick = self.shared.deadlines.add(call, call.expires_at)
        if len(self.cache.answers) > MOST_ANSWERS:
            self.fail(call, Code.OVERLOADED, "", "too many replies wait for their callers")
        elif not service.begin(partial(self._start, call)):
            code, what = (
                (Code.OVERLOADED, "has its hands full") if service.open else (Code.DRAINING, "takes no more calls")
            )
            self.fail(call, code, "", f"{meta.topic!r} {what}")

    def _start(self, call: LogRequest) -> None:
        if call.over:  # taken back while it waited for its turn
            self._loop.call_soon(call.service.end)
        else:
            self.turns.start(call)

    def _runs(self, task: asyncio.Task[None]) -> None:
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _go_on(self, call: LogRequest, control: int, body: Any) -> None:
        if control == CANCEL:
            self.fail(call, Code.CANCELLED, BY_CALLER, "its caller wants no reply")
        elif control == END:
            call.came(None)
        elif control == DATA and not call.came(body[1]):
            self.fail(call, Code.CANCELLED, "", "its messages came faster than the handler took them")

    def _expired(self, call: LogRequest) -> None:
        self.fail(call, Code.DEADLINE, "", "the deadline passed before the handler was done")

    # The fold

    def _fold(self, batch: Batch) -> None:
        self.cache.apply(batch)
        self._folded = batch.next_offset
        while self._said and self._said[0][0] < self._folded:
            self._drop(self._said.popleft()[1])
        if self.cache.effects:
            self._work.set()
        if self.cache.effects_bytes <= MOST_EFFECTS_BYTES:
            self._room.set()
        if self.cache.term != self._term:
            raise ProducerFenced(f"the calls of {self.target} are served by a successor", topic=batch.topic)

    # Effects and checkpoints

    async def _keep(self, incarnation: str) -> None:
        producer = f"{self._name}:{incarnation}:effects"
        held_at = self._loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECKPOINT_S):
                    await self._work.wait()
            self._work.clear()
            if self._broken is not None:  # whether that is the answer, only a new fold can tell
                raise self._broken
            if owed := self._owed():
                outcomes = [(offset, self.cache.effects[offset]) for offset in owed]
                for topic, error in await append_all(self.shared.log, producer, outcomes, DeliveryPolicy()):
                    self.lost += 1
                    _log.error("an effect of a call of %s has no place in %s any more: %s", self.target, topic, error)
                self._appended = owed[-1]
                self._quiet.set()
            self._credit()
            if self._loop.time() - held_at >= CHECKPOINT_S:
                await self._hold()
                held_at = self._loop.time()

    def _owed(self) -> list[int]:
        """The outcomes whose effects are still to be appended."""
        return sorted(at for at in self.cache.effects if at > self._appended)

    def _credit(self) -> None:
        """Says how far everything is done, if that is news."""
        first = next(iter(self.calls.values()), None)
        done = (self._read if first is None else first.offset, self._appended)
        if done != self._told:
            self._told = done
            self._tell(CREDIT, done, self._credited)

    def _credited(self, offset: int, error: DynlogError | None) -> None:
        if error is not None:
            self._told = (-1, -1)  # it is said again

    async def _hold(self) -> None:
        """Keeps the requests that are not done from being truncated."""
        offset = max(self.cache.done_before, self._first)
        if offset == self._held:
            return
        holder = Holder(self._name, HolderKind.NAMED, {self.partition: offset})
        with suppress(OffsetTruncated):
            await self.shared.log.hold(self.shared.topics.requests, holder)
            self._held = offset

    def _tell(
        self, control: Control, numbers: tuple[int, ...], done: Callable[[int, DynlogError | None], None] | None = None
    ) -> None:
        meta = pack((self._key, *numbers))
        self._outbox.put(self.shared.topics.replies, self.partition, self._key, control, (meta,), done)


def _resolve(future: asyncio.Future[int], offset: int, error: DynlogError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(offset)
    else:
        future.set_exception(error)
