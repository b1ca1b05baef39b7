"""Call paths over sessions on any wire: an acceptor with services, and a dialler to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from dynlog.network.accepting import Acceptor
from dynlog.network.calls import Call, ReplyStream
from dynlog.network.deadlines import Deadlines
from dynlog.network.dialling import Dialler
from dynlog.network.services import Services
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.record import Buffer
from dynlog.wire import Listener, Wire, make_wire, scheme_of
from tests.network.call_backend import CALLER, SERVER


class Wires:
    """The wires of one process."""

    def __init__(self) -> None:
        self._made: dict[str, Wire] = {}

    def wire(self, scheme: str) -> Wire:
        if scheme not in self._made:
            self._made[scheme] = make_wire(scheme)
        return self._made[scheme]

    async def close(self) -> None:
        for wire in self._made.values():
            await wire.close()


class SessionPath:
    """A dialler as a call path."""

    def __init__(self, dialler: Dialler) -> None:
        self.dialler = dialler

    async def request(self, call: Call, body: Buffer) -> Buffer:
        return await self.dialler.request(call, body)

    def stream(self, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> ReplyStream:
        return _Streaming(self.dialler, call, messages)


class _Streaming:
    def __init__(self, dialler: Dialler, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> None:
        self._dialler, self._call, self._messages = dialler, call, messages
        self._replies: ReplyStream | None = None

    async def __aenter__(self) -> Self:
        self._replies = await self._dialler.stream(self._call, self._messages)
        await self._replies.__aenter__()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Buffer:
        assert self._replies is not None
        return await anext(self._replies)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._replies is not None
        await self._replies.__aexit__(kind, error, traceback)


class Pair:
    """A server that listens at some addresses, and a caller that knows them."""

    def __init__(self, acceptor: Acceptor, listeners: list[Listener], dialler: Dialler) -> None:
        self.acceptor, self.listeners, self.dialler = acceptor, listeners, dialler
        self.path = SessionPath(dialler)

    @property
    def addresses(self) -> list[str]:
        return [listener.address for listener in self.listeners]


@asynccontextmanager
async def session_pair(
    addresses: list[str], services: Services, settings: Settings | None = None, *, dial: list[str] | None = None
) -> AsyncIterator[Pair]:
    """Both ends, each with wires of its own; ``dial`` instead of where it listens, for a proxy between."""
    settings = settings or Settings()
    deadlines = Deadlines(asyncio.get_running_loop())
    here, there = Wires(), Wires()
    acceptor = Acceptor(Identity(SERVER.key, 1, SERVER.name), settings, services, deadlines)
    listeners = [await there.wire(scheme_of(address)).listen(address, acceptor.accept) for address in addresses]
    dialler = Dialler(
        here, Identity(CALLER.key, 1, CALLER.name), settings, Services(), deadlines,
        dial or [listener.address for listener in listeners], wanted=SERVER,
    )  # fmt: skip
    try:
        yield Pair(acceptor, listeners, dialler)
    finally:
        await dialler.close()
        for listener in listeners:
            await listener.close()
        acceptor.close()
        await here.close()
        await there.close()
        deadlines.close()
