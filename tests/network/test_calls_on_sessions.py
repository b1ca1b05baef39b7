"""The call suite over sessions, on every wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.network.calls import CallPath
from dynlog.network.services import Services
from dynlog.testing.kinds import RunningServer
from tests.network.call_suite import BackpressureSuite, StreamSuite, UnarySuite
from tests.network.sessions import session_pair


class SessionBackend(UnarySuite, StreamSuite, BackpressureSuite):
    def address(self, tmp_path: Path) -> str:
        return "tcp://127.0.0.1:0"

    @asynccontextmanager
    async def serving(self, services: Services, tmp_path: Path) -> AsyncIterator[CallPath]:
        async with session_pair([self.address(tmp_path)], services) as pair:
            yield pair.path


class TestCallsOverTcp(SessionBackend):
    pass


class TestCallsOverUds(SessionBackend):
    def address(self, tmp_path: Path) -> str:
        return f"uds://{tmp_path}/s"


class TestCallsInProcess(SessionBackend):
    def address(self, tmp_path: Path) -> str:
        return f"inproc://{uuid4().hex}"


class TestCallsOverZmq(SessionBackend):
    def address(self, tmp_path: Path) -> str:
        return "zmq://127.0.0.1:0"


class TestCallsOverSse(SessionBackend):
    def address(self, tmp_path: Path) -> str:
        return "sse://127.0.0.1:0/dynlog"


class TestCallsOverNats(SessionBackend):
    @pytest.fixture(autouse=True)
    def _server(self, nats_server: RunningServer) -> None:
        self.nats = nats_server.url

    def address(self, tmp_path: Path) -> str:
        return f"{self.nats}/dynlog.{uuid4().hex}"
