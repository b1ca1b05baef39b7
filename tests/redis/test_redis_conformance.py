"""The Redis engine keeps the log contract, on a real server and among many processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from dynlog.testing.redis import RedisServer
from tests.conformance.log_suite import LogSuite, MarksSuite, ProcessesSuite, StalledSuite


class TestRedisLog(LogSuite, MarksSuite, ProcessesSuite, StalledSuite):
    server: ClassVar[RedisServer]

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        type(self).server = redis_server

    def url(self, tmp_path: Path) -> str:
        return f"{self.server.url}?prefix=t{uuid4().hex}"

    @contextmanager
    def stalled(self, url: str) -> Iterator[None]:
        """The server is stopped in the middle of whatever it does."""
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()
