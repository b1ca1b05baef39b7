"""A connection to the session's NATS server that reads, and one that writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.testing.kinds import RunningServer
from tests.nats_source.source import Writer, writing


@pytest_asyncio.fixture
async def source(nats_server: RunningServer) -> AsyncIterator[NatsServer]:
    """What reads."""
    async with open_nats(NatsAccess(nats_server.url)) as server:
        yield server


@pytest_asyncio.fixture
async def writer(nats_server: RunningServer) -> AsyncIterator[Writer]:
    """What writes."""
    async with writing(nats_server.url) as writer:
        yield writer
