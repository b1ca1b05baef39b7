"""A handler at work on a call of the log: whatever it does becomes one outcome."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from dynlog.errors import DynlogError
from dynlog.network.frames import Code
from dynlog.network.incoming import current_call
from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_records import too_large
from dynlog.network.serving import as_body, failure
from dynlog.record import Buffer

if TYPE_CHECKING:
    from dynlog.network.log_lane import Lane

_log = logging.getLogger(__name__)


async def run(lane: Lane, call: LogRequest) -> None:
    """Runs the handler and answers, unless that was done meanwhile."""
    call.begun = True
    service, most = call.service, lane.shared.topics.max_message
    assert service is not None
    failed = True
    try:
        if call.over:
            return
        current_call.set(call)
        handler = cast(Any, service.handler)
        if service.streaming:
            async with aclosing(handler(call)) as replies:
                async for reply in replies:
                    body = _fitting(as_body(reply), most, call)
                    await call.turn()
                    if call.over:
                        return
                    lane.give(call, body)
            lane.reply(call, None, await _effects(lane, call, 0))
        else:
            result = await handler(call)
            body = b"" if result is None else result if result.__class__ is bytes else as_body(result)
            body = _fitting(body, most, call)
            lane.reply(call, body, await _effects(lane, call, len(body)) if call.has_effects else None)
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
        service.end(failed=failed)


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
