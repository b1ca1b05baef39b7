"""What a call path gives to the suite: a server with these handlers, and a way to it; few words for all scenarios."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.network.calls import NO_HEADERS, Call, CallPath, Handler, ReplyStream
from dynlog.network.services import Services, ServiceSettings
from dynlog.record import Buffer
from dynlog.timing import Deadline

SERVER = DynamoEntityID.from_name("server", incarnation=1)
CALLER = DynamoEntityID.from_name("caller", incarnation=1)
PATIENCE_S = 20.0
"""No scenario waits longer than this for something that must come; it only bounds a failure."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server as a caller sees it."""

    path: CallPath
    services: Services
    """What the server serves."""

    def call(
        self, topic: str, deadline: float = PATIENCE_S, headers: Mapping[str, str] = NO_HEADERS, name: str | None = None
    ) -> Call:
        """A call of that topic."""
        call = Call(SERVER, topic, Deadline(deadline), CALLER, headers)
        return call if name is None else Call(SERVER, topic, call.deadline, CALLER, headers, name)

    async def ask(self, topic: str, body: Buffer = b"", deadline: float = PATIENCE_S) -> bytes:
        """The reply."""
        return bytes(await self.path.request(self.call(topic, deadline), body))

    def stream(
        self, topic: str, messages: Buffer | AsyncIterable[Buffer] = b"", deadline: float = PATIENCE_S
    ) -> ReplyStream:
        """The replies."""
        return self.path.stream(self.call(topic, deadline), messages)

    async def all(self, topic: str, messages: Buffer | AsyncIterable[Buffer] = b"") -> list[bytes]:
        """All replies."""
        async with self.stream(topic, messages) as replies:
            return [bytes(reply) async for reply in replies]


class CallBackend(ABC):
    """A call path under test."""

    max_body = 1 << 20
    """The longest body that goes in either direction."""

    @abstractmethod
    def serving(self, services: Services, tmp_path: Path) -> AbstractAsyncContextManager[CallPath]:
        """A server with these services and a path to it, both new."""

    @pytest.fixture(autouse=True)
    async def nothing_is_left(self) -> AsyncIterator[None]:
        """Whatever a scenario does, no task is left behind."""
        before = asyncio.all_tasks()
        yield
        # The task of this very clean-up is none of them.
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=PATIENCE_S)
        assert not [task for task in left if not task.done()]

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path

    @asynccontextmanager
    async def peer(
        self, place: Path, settings: ServiceSettings | None = None, **handlers: Handler
    ) -> AsyncIterator[Peer]:
        """A server with these handlers, by topic."""
        services = Services()
        for topic, handler in handlers.items():
            services.add(SERVER, topic, handler, settings)
        async with self.serving(services, place) as path:
            yield Peer(path, services)


async def numbered(count: int, size: int = 8) -> AsyncIterator[bytes]:
    """``count`` different messages of so many bytes."""
    for number in range(count):
        yield number.to_bytes(4, "big").ljust(size, b".")
