"""Calls that a session brings, and how their outcomes are said on it: each exactly once, unless nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from dynlog.network.frames import Code
from dynlog.network.incoming import IncomingCall
from dynlog.network.outcomes import as_body, body_of

if TYPE_CHECKING:
    from dynlog.network.link import Link
    from dynlog.network.session_events import Opened


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


class SessionAnswers:
    """Says the outcomes of a session's calls on their streams."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def reply(self, call: IncomingCall, result: object) -> Awaitable[object] | None:
        """See `dynlog.network.turns.Answers`."""
        body = body_of(result)
        if self._link.session.send(call.stream, body, True):
            return None
        return self._link.write(call.stream, body, True, call)

    async def replies(self, call: IncomingCall, handler: AsyncGenerator[object, None]) -> bool:
        """See `dynlog.network.turns.Answers`."""
        link, stream = self._link, call.stream
        async with aclosing(handler) as replies:
            async for reply in replies:
                await link.write(stream, as_body(reply), False, call)
        link.session.finish(stream)
        return True

    def fail(self, call: IncomingCall, code: int, kind: str, text: str) -> None:
        """See `dynlog.network.turns.Answers`."""
        self._link.session.fail(call.stream, code, kind, text)

    def ended(self, call: IncomingCall, *, failed: bool) -> None:
        """See `dynlog.network.turns.Answers`."""
        forget(self._link, call)
        call.service.end(failed=failed)
        self._link.answered()
