"""Leases, locks and elections on the engines that are servers: the suite that memory and SQLite pass, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from dynlog.testing.kinds import RunningServer
from tests.kv.suite_lease import LeaseSuite
from tests.kv.suite_lock import LockSuite


class TestRedisLeases(LeaseSuite, LockSuite):
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RunningServer) -> None:
        type(self).server = redis_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}?prefix=t{uuid4().hex}"


class TestKafkaLeases(LeaseSuite, LockSuite):
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, kafka_server: RunningServer) -> None:
        type(self).server = kafka_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}/t{uuid4().hex}"
