"""Registry, manager, events and bad pushes on the logs that are servers."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from dynlog.testing.kinds import RunningServer
from tests.network.event_pushes import PushSuite
from tests.network.event_suite import EventSuite, WithLogSuite
from tests.network.registry_backend import World, on_log
from tests.network.registry_suite import RegistrySuite


class OnRedis:
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RunningServer) -> None:
        type(self).server = redis_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}?prefix=t{uuid4().hex}"


class OnKafka:
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, kafka_server: RunningServer) -> None:
        type(self).server = kafka_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}/t{uuid4().hex}"


class TestEventsOnRedis(OnRedis, RegistrySuite, EventSuite, WithLogSuite):
    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[World]:
        return on_log(self.url(tmp_path))


class TestEventsOnKafka(OnKafka, RegistrySuite, EventSuite, WithLogSuite):
    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[World]:
        return on_log(self.url(tmp_path))


class TestPushesOnRedis(OnRedis, PushSuite):
    seeds = range(3)


class TestPushesOnKafka(OnKafka, PushSuite):
    seeds = range(2)
