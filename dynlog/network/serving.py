"""Handlers at work for the calls of a session: each call is answered exactly once, unless nobody waits for it any more.

Whatever a handler does becomes an answer: what it returns or raises, a result of the wrong type, its cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from dynlog.call_errors import CallError, HandlerFailed, MessageTooLarge
from dynlog.errors import DeadlineExceeded, DynlogError
from dynlog.network.frames import Code
from dynlog.network.incoming import IncomingCall, current_call
from dynlog.network.turns import rest, touched
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
    link.calls[call] = None
    if stream.deadline is not None:
        call.tick = link.deadlines.add(call, stream.deadline)
    if not service.begin(partial(link.turns.start, call)):
        forget(link, call)
        code, what = (Code.OVERLOADED, "has its hands full") if service.open else (Code.DRAINING, "takes no more calls")
        session.fail(stream, code, "", f"{meta.topic!r} {what}")


def forget(link: Link, call: IncomingCall) -> None:
    """The call is over here."""
    link.calls.pop(call, None)
    if call.tick >= 0:
        link.deadlines.discard(call, call.tick)
    stream = call.stream
    if not stream.sending and not stream.receiving:
        stream.owner = None  # or the two would wait for the garbage collector


async def run(link: Link, calls: deque[IncomingCall]) -> None:
    """Handlers one after the other, until one waits (`dynlog.network.turns`)."""
    session, turns = link.session, link.turns
    task, context = turns.begun(calls)
    try:
        while calls:
            call = calls.popleft()
            call.task, call.begun = task, True
            service, stream = call.service, call.stream
            failed = True
            try:
                if call.gone:
                    continue
                before = current_call.set(call)
                # Which of the two a handler is was looked at when it was added.
                handler = cast(Any, service.handler)(call)
                if service.streaming:
                    turns.apart(calls, context)
                    async with aclosing(handler) as replies:
                        async for reply in replies:
                            await link.write(stream, as_body(reply), False, call)
                    session.finish(stream)
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
                    if result.__class__ is not bytes:
                        result = b"" if result is None else as_body(result)
                    if not session.send(stream, result, True):
                        turns.apart(calls, context)
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
                call.task = None
                forget(link, call)
                service.end(failed=failed)
                link.answered()
            if calls:
                current_call.reset(before)
                if touched(task, context):
                    return
    finally:
        turns.apart(calls, context)


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
