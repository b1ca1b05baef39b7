"""One NATS server for all tests of this folder; each test begins with an empty one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from dynlog.testing.kinds import RunningServer
from tests.migrate_streams.source import Source, open_source


@pytest_asyncio.fixture
async def source(nats_server: RunningServer) -> AsyncIterator[Source]:
    """The server, with nothing in it."""
    async with open_source(nats_server.url) as opened:
        yield opened
