"""One Redis for the session, that fsyncs every append; a log under a prefix of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest

from dynlog.testing.redis import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The server; started and stopped in a loop of its own, since each test has its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    with asyncio.Runner() as runner:
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a log that is new for this test."""
    return new_log(redis_server)


def new_log(server: RedisServer) -> str:
    """The URL of a log that nobody has used."""
    return f"{server.url}?prefix=t{uuid4().hex}"
