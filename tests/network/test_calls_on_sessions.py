"""The call suite over sessions, on the wires that need no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from dynlog.network.accepting import Acceptor
from dynlog.network.calls import Call, CallPath, ReplyStream
from dynlog.network.deadlines import Deadlines
from dynlog.network.dialling import Dialler
from dynlog.network.services import Services
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.record import Buffer
from dynlog.wire import Wire, make_wire
from tests.network.call_backend import CALLER, SERVER
from tests.network.call_suite import BackpressureSuite, StreamSuite, UnarySuite


class OneWire:
    """The wires of a process that has one."""

    def __init__(self, scheme: str) -> None:
        self.only = make_wire(scheme)

    def wire(self, scheme: str) -> Wire:
        return self.only


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
        self._args = (call, messages)
        self._dialler = dialler
        self._replies: ReplyStream | None = None

    async def __aenter__(self) -> Self:
        self._replies = await self._dialler.stream(*self._args)
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


class SessionBackend(UnarySuite, StreamSuite, BackpressureSuite):
    scheme = "tcp"

    def address(self, tmp_path: Path) -> str:
        return "tcp://127.0.0.1:0"

    @asynccontextmanager
    async def serving(self, services: Services, tmp_path: Path) -> AsyncIterator[CallPath]:
        deadlines = Deadlines(asyncio.get_running_loop())
        here, there = OneWire(self.scheme), OneWire(self.scheme)
        acceptor = Acceptor(Identity(SERVER.key, 1, SERVER.name), Settings(), services, deadlines)
        listener = await there.only.listen(self.address(tmp_path), acceptor.accept)
        dialler = Dialler(
            here, Identity(CALLER.key, 1, CALLER.name), Settings(), Services(), deadlines, [listener.address],
            wanted=SERVER,
        )  # fmt: skip
        try:
            yield SessionPath(dialler)
        finally:
            await dialler.close()
            await listener.close()
            acceptor.close()
            await here.only.close()
            await there.only.close()
            deadlines.close()


class TestCallsOverTcp(SessionBackend):
    pass


class TestCallsOverUds(SessionBackend):
    scheme = "uds"

    def address(self, tmp_path: Path) -> str:
        return f"uds://{tmp_path}/s"


class TestCallsInProcess(SessionBackend):
    scheme = "inproc"

    def address(self, tmp_path: Path) -> str:
        return f"inproc://{uuid4().hex}"
