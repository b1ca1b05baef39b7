"""A handler at work on a call of the log: whatever it does becomes one outcome."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from dynlog.errors import DynlogError
from dynlog.network.frames import Code
from dynlog.network.incoming import current_call
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_records import too_large
from dynlog.network.serving import as_body, failure
from dynlog.network.turns import rest, touched
from dynlog.record import Buffer

if TYPE_CHECKING:
    from dynlog.network.log_lane import Lane

_log = logging.getLogger(__name__)


async def run(lane: Lane, calls: deque[LogRequest]) -> None:
    """Handlers one after the other, until one waits (`dynlog.network.turns`); each answers, unless that was done."""
    turns, most = lane.turns, lane.shared.topics.max_message
    task, context = turns.begun(calls)
    try:
        while calls:
            call = calls.popleft()
            call.task, call.begun = task, True
            service = call.service
            failed = True
            try:
                if call.over:
                    continue
                before = current_call.set(call)
                handler = cast(Any, service.handler)(call)
                if service.streaming:
                    turns.apart(calls, context)
                    if not await _replies(lane, call, handler, most):
                        continue
                else:
                    try:
                        waited = handler.send(None)
                    except StopIteration as done:
                        result = done.value
                        service.prompt = True
                    else:
                        service.prompt = False
                        turns.apart(calls, context)
                        result = await rest(handler, waited)
                    body = b"" if result is None else result if result.__class__ is bytes else as_body(result)
                    body = _fitting(body, most, call)
                    effects = None
                    if call.has_effects:
                        turns.apart(calls, context)
                        effects = await _effects(lane, call, len(body))
                    lane.reply(call, body, effects)
                failed = False
            except asyncio.CancelledError:
                if not call.over:
                    lane.fail(call, Code.CANCELLED, "", "the handler was cancelled where it runs")
            except Exception as error:
                if not call.over:
                    lane.fail(call, *failure(error))
                    if not isinstance(error, DynlogError):
                        _log.warning("the handler of %r raised %r", call.topic, error, exc_info=error)
            finally:
                call.task = None
                service.end(failed=failed)
            if calls:
                current_call.reset(before)
                if touched(task, context):
                    return
    finally:
        turns.apart(calls, context)


async def _replies(lane: Lane, call: LogRequest, handler: AsyncGenerator[object, None], most: int) -> bool:
    """Whether all of them were said."""
    async with aclosing(handler) as replies:
        async for reply in replies:
            body = _fitting(as_body(reply), most, call)
            await call.turn()
            if call.over:
                return False
            lane.give(call, body)
    lane.reply(call, None, await _effects(lane, call, 0))
    return True


def _fitting(body: Buffer, most: int, call: LogRequest) -> Buffer:
    if len(body) > most:
        raise too_large(len(body), most, "a reply", call.topic, call.correlation_id)
    return body


async def _effects(lane: Lane, call: LogRequest, beside: int) -> bytes | None:
    """The effects as they lie beside the reply."""
    if not call.has_effects:
        return None
    encoded = await call.effects.encode(lane.shared.log)
    if beside + len(encoded) > lane.shared.topics.max_message:
        raise too_large(
            beside + len(encoded), lane.shared.topics.max_message, "a reply with its effects", call.topic,
            call.correlation_id,
        )  # fmt: skip
    return encoded
