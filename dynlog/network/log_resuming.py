"""What a caller that was killed left behind: requests whose answers it had not acknowledged, found again in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynlog.batch import Batch, Position
from dynlog.dedupe import DedupeTable
from dynlog.entity import DynamoEntityID, EntityType
from dynlog.errors import DeadlineExceeded, OffsetTruncated
from dynlog.log import Log
from dynlog.network.calls import Call
from dynlog.network.log_outgoing import Awaited
from dynlog.network.log_records import (
    CANCEL,
    END,
    ERROR,
    OPEN,
    TOMBSTONE,
    CallTopics,
    Opening,
    entity_of,
    ident_of,
    meta_of,
)
from dynlog.record import Buffer
from dynlog.timing import Deadline

if TYPE_CHECKING:
    from dynlog.network.log_caller import LogCaller


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call of an earlier life.  Its answer stays in the log until `reply` gave it, or an hour past its deadline."""

    call: Call
    _awaited: Awaited

    @property
    def answered(self) -> bool:
        """Whether its outcome is there."""
        return self._awaited.answered

    async def reply(self, timeout: float) -> Buffer:
        """The one reply, or how the call ended, as for every call; DeadlineExceeded if it is not there in time."""
        awaited = self._awaited
        done, _ = await asyncio.wait([awaited.future], timeout=timeout)
        if not done:
            raise DeadlineExceeded(
                f"no answer within {timeout:g} s; it may still come (topic {self.call.topic}, call "
                f"{self.call.correlation_id})"
            )
        if awaited.answered:  # also by an error: that is an outcome, too
            awaited.caller.acknowledge(awaited.partition, self.call.target.key, self.call.correlation_id)
            awaited.caller.release(awaited)
        return awaited.future.result()


async def find_open(
    caller: LogCaller, log: Log, topics: CallTopics, requests: dict[int, int], replies: dict[int, int]
) -> list[OpenCall]:
    """Reads both topics from those offsets on; what is not answered yet is waited for from now on."""
    mine = caller.caller.key
    asked: dict[bytes, tuple[Opening, bytes, int, int]] = {}
    newest = 0
    for partition, first in requests.items():
        async for batch in _all(log, topics.requests, partition, first):
            newest = max(newest, batch.log_times[-1] if batch.log_times else 0)
            _requests_of(mine, batch, asked)
    found: dict[bytes, OpenCall] = {}
    seen = caller.seen
    for ident, (meta, target, partition, deadline_ms) in asked.items():
        # Whether it is an instance or a collection is not said in a request, and makes no difference to its answer.
        entity = DynamoEntityID(int.from_bytes(target, "big"), EntityType.INSTANCE)
        left = Deadline(max(deadline_ms - newest, 0) / 1000.0)
        call = Call(entity, meta.topic, left, caller.caller, meta.headers, meta.correlation_id, meta.attempt)
        awaited = caller.expect(call, target, partition)
        if awaited is not None:
            found[ident] = OpenCall(call, awaited)
    answers: dict[bytes, tuple[int, list[Any], Any]] = {}
    for partition, first in replies.items():
        async for batch in _all(log, topics.replies, partition, first, seen[partition]):
            for acknowledged in _answers_to(mine, batch, answers):
                if (gone := found.pop(acknowledged, None)) is not None:
                    caller.release(gone._awaited)
    for ident, (control, meta_, body) in answers.items():
        if ident in found:
            found[ident]._awaited.came(control, meta_, body)
            caller.forget(found[ident]._awaited)
    return list(found.values())


def _requests_of(caller: bytes, batch: Batch, asked: dict[bytes, tuple[Opening, bytes, int, int]]) -> None:
    controls = batch.columns.controls or bytes(len(batch))
    for index, body in enumerate(batch.bodies):
        meta = meta_of(body) if controls[index] in (OPEN, CANCEL) else None
        if meta is None:
            continue
        if controls[index] == CANCEL:
            asked.pop(ident_of(meta[0], meta[1]), None)
            continue
        opening = Opening(*meta)
        if entity_of(opening.caller).key == caller:
            until = batch.log_times[index] + opening.budget_ms
            asked[ident_of(caller, opening.correlation_id)] = (
                opening, batch.keys[index] or b"", batch.partition, until
            )  # fmt: skip


def _answers_to(caller: bytes, batch: Batch, answers: dict[bytes, tuple[int, list[Any], Any]]) -> list[bytes]:
    """Takes the first outcome of each call; returns what was acknowledged."""
    controls = batch.columns.controls or bytes(len(batch))
    gone: list[bytes] = []
    for index, owner in enumerate(batch.keys):
        if owner != caller or (meta := meta_of(batch.bodies[index])) is None:
            continue
        if controls[index] == TOMBSTONE:
            gone += [ident_of(caller, name) for _, name in meta]
        elif controls[index] in (END, ERROR):
            answers.setdefault(ident_of(caller, meta[1]), (controls[index], meta, batch.bodies[index]))
    return gone


async def _all(log: Log, topic: str, partition: int, first: int, stop: int | None = None) -> AsyncIterator[Batch]:
    """What lies there now, or below ``stop``, each record once."""
    dedupe = None if log.capabilities.checks_marks else DedupeTable()
    at: Position = await log.position(topic, partition, first)
    while stop is None or at.offset < stop:
        try:
            batch = await log.read(at)
        except OffsetTruncated as error:
            at = at._replace(offset=error.earliest)
            continue
        if batch.next_offset == at.offset:
            return
        at = batch.next_position
        if stop is not None and at.offset > stop:
            batch = batch.slice(0, sum(offset < stop for offset in batch.offsets))
        yield dedupe.filter(batch) if dedupe is not None else batch
