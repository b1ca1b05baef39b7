"""Calls as a manager makes them: what travels with them, which way they go, and when one is made again.

Only what never left is made again by itself; what may have run is, under the same id, if its caller says that it may.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from dynlog.call_errors import CallOutcomeUnknown, NotSent, Overloaded
from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.network.calls import NO_HEADERS, Call, ReplyStream, new_id
from dynlog.network.incoming import current_call
from dynlog.network.log_resuming import OpenCall
from dynlog.network.paths import LOG, DurableCalls, Path, chosen
from dynlog.network.peers import Peers
from dynlog.record import Buffer
from dynlog.timing import Backoff, Deadline


def inherited(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """The headers, over those of the call that is being handled here, if one is."""
    handled = current_call.get()
    if handled is None:
        return headers or NO_HEADERS
    return {**handled.headers, **headers} if headers else handled.headers


class Requests:
    """The calls of one manager; ``durable`` is there if it may go by the log."""

    def __init__(self, caller: DynamoEntityID, peers: Peers, durable: DurableCalls | None) -> None:
        self.caller, self.peers, self.durable = caller, peers, durable

    def call(
        self, target: DynamoEntityID, topic: str, deadline: float, headers: Mapping[str, str] | None, name: str | None
    ) -> Call:
        """A call; from the one that is being handled it inherits headers, and at most what is left of its time."""
        handled = current_call.get()
        if handled is not None:
            deadline, headers = min(deadline, handled.deadline.remaining), inherited(headers)
        return Call(
            target, topic, Deadline(deadline), self.caller, headers or NO_HEADERS, new_id() if name is None else name
        )

    async def request(self, call: Call, body: bytes, idempotent: bool, path: Path) -> Buffer:
        """See `DynamoNetworkManager.request`."""
        target = call.target
        if (self.durable is not None or path is Path.LOG) and (durable := chosen(self.durable, target, path)):
            return await durable.caller.request(call, body)
        pauses: Iterator[float] | None = None
        while True:
            try:
                return await self.peers.dialler(target).request(call, body)
            except NotSent as error:
                if self.durable is None or path is Path.WIRE or isinstance(error, Overloaded):
                    raise
                return await self.durable.caller.request(call, body)
            except CallOutcomeUnknown:
                pauses = pauses or iter(Backoff())
                pause = next(pauses)
                if not idempotent or call.deadline.remaining <= pause:
                    raise
            await asyncio.sleep(pause)
            call = replace(call, attempt=call.attempt + 1)

    @asynccontextmanager
    async def stream(
        self, call: Call, messages: Buffer | AsyncIterable[Buffer], path: Path
    ) -> AsyncIterator[ReplyStream]:
        """See `DynamoNetworkManager.stream`."""
        if (durable := chosen(self.durable, call.target, path)) is not None:
            async with durable.caller.stream(call, messages) as replies:
                yield replies
            return
        async with await self.peers.dialler(call.target).stream(call, messages) as replies:
            yield replies

    async def unanswered(self) -> list[OpenCall]:
        """See `DynamoNetworkManager.unanswered`."""
        if self.durable is None:
            raise ConfigurationError("calls outlive their caller where the manager was opened with durable=True")
        return await self.durable.caller.resume()

    async def switch(self, peer: DynamoEntityID, wire: str) -> str:
        """See `DynamoNetworkManager.switch`."""
        if wire == LOG:
            durable = chosen(self.durable, peer, Path.LOG)
            assert durable is not None
            durable.peers.add(peer)
            return LOG
        address = wire if "://" in wire else self.peers.address_on(peer, wire)
        await self.peers.dialler(peer).move_to(address)
        if self.durable is not None:
            self.durable.peers.discard(peer)
        return address
