"""Handlers at work for the calls of a session: each call is answered exactly once, unless nobody waits for it any more.

Whatever a handler does becomes an answer: what it returns or raises, a result of the wrong type, its cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from dynlog.call_errors import CallError, HandlerFailed, MessageTooLarge
from dynlog.errors import DeadlineExceeded, DynlogError
from dynlog.network.frames import Code
from dynlog.network.incoming import IncomingCall, current_call
from dynlog.record import Buffer

if TYPE_CHECKING:
    from dynlog.network.link import Link
    from dynlog.network.session_events import Opened

_log = logging.getLogger(__name__)


def serve(link: Link, opened: Opened) -> None:
    """Begins the call, or answers why not."""
    stream, meta, body, end = opened
    service = link.services.find(meta.target, meta.topic)
    session = link.session
    if service is None:
        session.fail(stream, Code.NO_SUCH_TOPIC, "", f"nobody serves {meta.topic!r} of that entity here")
        return
    call = IncomingCall(link, service, stream, meta, body, end)
    stream.owner = call

    def start() -> None:
        call.task = link.loop.create_task(_run(link, call))

    link.calls[call] = None
    if stream.deadline is not None:
        call.tick = link.deadlines.add(call, stream.deadline)
    if not service.begin(start):
        forget(link, call)
        code, what = (Code.OVERLOADED, "has its hands full") if service.open else (Code.DRAINING, "takes no more calls")
        session.fail(stream, code, "", f"{meta.topic!r} {what}")


def forget(link: Link, call: IncomingCall) -> None:
    """The call is over here."""
    link.calls.pop(call, None)
    if call.tick >= 0:
        link.deadlines.discard(call, call.tick)


async def _run(link: Link, call: IncomingCall) -> None:
    call.begun = True
    service, stream, session = call.service, call.stream, link.session
    failed = True
    try:
        if call.gone:
            return
        current_call.set(call)
        # Which of the two a handler is was looked at when it was added.
        handler = cast(Any, service.handler)
        if service.streaming:
            async with aclosing(handler(call)) as replies:
                async for reply in replies:
                    await link.write(stream, as_body(reply), False, call)
            session.finish(stream)
        else:
            result = await handler(call)
            if result.__class__ is not bytes:
                result = b"" if result is None else as_body(result)
            if not session.send(stream, result, True):
                await link.write(stream, result, True, call)
        failed = False
    except asyncio.CancelledError:
        if not call.gone:
            session.fail(stream, Code.CANCELLED, "", "the handler was cancelled where it runs")
    except Exception as error:
        if not call.gone:
            session.fail(stream, *failure(error))
            if not isinstance(error, DynlogError):
                _log.warning("the handler of %r raised %r", call.topic, error, exc_info=error)
    finally:
        forget(link, call)
        service.end(failed=failed)
        link.answered()


def failure(error: Exception) -> tuple[int, str, str]:
    """Code, kind and text that a caller is told of what a handler raised."""
    if isinstance(error, HandlerFailed):  # of a call that the handler made: the kind is the origin's
        return Code.FAILED, error.kind, error.text
    if isinstance(error, MessageTooLarge):
        return Code.TOO_LARGE, "", str(error)
    if isinstance(error, DeadlineExceeded) and not isinstance(error, CallError):
        return Code.FAILED, "DeadlineExceeded", str(error)
    return Code.FAILED, type(error).__name__, str(error)


def as_body(result: object) -> Buffer:
    """The bytes of a handler's result; raises TypeError for anything else than bytes."""
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result)
    raise TypeError(f"the handler gave {type(result).__name__}: bytes are needed (or a model, where one was named)")
