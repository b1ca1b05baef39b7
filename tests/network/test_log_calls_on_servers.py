"""The call suite over the log, on the engines that are servers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from dynlog.testing.kinds import RunningServer
from tests.network.log_calls import LogBackend


class TestCallsOverRedis(LogBackend):
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RunningServer) -> None:
        type(self).server = redis_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}?prefix=t{uuid4().hex}"


class TestCallsOverKafka(LogBackend):
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, kafka_server: RunningServer) -> None:
        type(self).server = kafka_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}/t{uuid4().hex}"
