"""Consumption on the engines that are servers: the suite that memory and SQLite pass, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from dynlog.testing.kinds import RunningServer
from tests.consume.suite_admin import AdminSuite
from tests.consume.suite_copy import CopySuite
from tests.consume.suite_delivery import DeliverySuite
from tests.consume.suite_group import GroupSuite
from tests.consume.suite_killed import KilledSuite
from tests.consume.suite_misuse import MisuseSuite
from tests.consume.suite_zombie import ZombieSuite


class TestRedisConsume(GroupSuite, ZombieSuite, DeliverySuite, AdminSuite, CopySuite, MisuseSuite, KilledSuite):
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RunningServer) -> None:
        type(self).server = redis_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}?prefix=t{uuid4().hex}"


class TestKafkaConsume(GroupSuite, ZombieSuite, DeliverySuite, AdminSuite, CopySuite, MisuseSuite, KilledSuite):
    server: ClassVar[RunningServer]

    @pytest.fixture(autouse=True)
    def _server(self, kafka_server: RunningServer) -> None:
        type(self).server = kafka_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}/t{uuid4().hex}"
