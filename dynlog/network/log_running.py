"""How the outcomes of a lane's calls are said: as records in the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING

from dynlog.network.log_incoming import LogRequest
from dynlog.network.log_records import too_large
from dynlog.network.outcomes import as_body, body_of
from dynlog.record import Buffer

if TYPE_CHECKING:
    from dynlog.network.log_lane import Lane


class LaneAnswers:
    """Says the outcomes of the calls of one lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def reply(self, call: LogRequest, result: object) -> Awaitable[object] | None:
        """See `dynlog.network.turns.Answers`."""
        body = self._fitting(body_of(result), call)
        if call.has_effects:
            return self._with_effects(call, body)
        self._lane.reply(call, body, None)
        return None

    async def replies(self, call: LogRequest, handler: AsyncGenerator[object, None]) -> bool:
        """See `dynlog.network.turns.Answers`."""
        async with aclosing(handler) as replies:
            async for reply in replies:
                body = self._fitting(as_body(reply), call)
                await call.turn()
                if call.gone:
                    return False
                self._lane.give(call, body)
        await self._with_effects(call, None)
        return True

    def fail(self, call: LogRequest, code: int, kind: str, text: str) -> None:
        """See `dynlog.network.turns.Answers`."""
        self._lane.fail(call, code, kind, text)

    def ended(self, call: LogRequest, *, failed: bool) -> None:
        """See `dynlog.network.turns.Answers`."""
        call.service.end(failed=failed)

    def _fitting(self, body: Buffer, call: LogRequest) -> Buffer:
        most = self._lane.shared.topics.max_message
        if len(body) > most:
            raise too_large(len(body), most, "a reply", call.topic, call.correlation_id)
        return body

    async def _with_effects(self, call: LogRequest, body: Buffer | None) -> None:
        """Says the reply, and the effects as they lie beside it."""
        self._lane.reply(call, body, await self._effects(call, 0 if body is None else len(body)))

    async def _effects(self, call: LogRequest, beside: int) -> bytes | None:
        if not call.has_effects:
            return None
        shared = self._lane.shared
        encoded = await call.effects.encode(shared.log)
        size, most = beside + len(encoded), shared.topics.max_message
        if size > most:
            raise too_large(size, most, "a reply with its effects", call.topic, call.correlation_id)
        return encoded
