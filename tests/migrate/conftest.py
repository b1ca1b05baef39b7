"""A NATS server that holds nothing when a test begins, and a migration from it into a log and a store of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

import dynlog
from dynlog.testing.kinds import RunningServer
from tests.migrate.migrating import Migrating, emptied
from tests.nats_source.source import Writer, writing


@pytest_asyncio.fixture
async def writer(nats_server: RunningServer) -> AsyncIterator[Writer]:
    """What writes to NATS, where nothing is yet."""
    async with writing(nats_server.url) as writer:
        await emptied(writer)
        yield writer
        await emptied(writer)


@pytest_asyncio.fixture
async def migrating(nats_server: RunningServer, writer: Writer) -> AsyncIterator[Migrating]:
    """A migration into a log and a store in memory."""
    async with dynlog.open_log("memory://") as log, dynlog.open_objects("memory://") as objects:
        yield Migrating(nats_server.url, log, objects)
