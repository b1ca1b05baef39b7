"""Whatever the order of steps, Redis, its producers and its readers do what fifty lines of lists and dicts do."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from dynlog.testing.redis import RedisServer
from tests.model.machine import LogMachine

pytestmark = pytest.mark.timeout(600)  # finding takes seconds, making the finding small may take minutes
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


class RedisMachine(LogMachine):
    server: ClassVar[RedisServer]

    def url(self) -> str:
        return f"{self.server.url}?prefix=m{uuid4().hex}"


@pytest.fixture(autouse=True)
def _server(redis_server: RedisServer) -> None:
    RedisMachine.server = redis_server


TestRedisModel = RedisMachine.TestCase
TestRedisModel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, print_blob=True, suppress_health_check=HEALTH
)
