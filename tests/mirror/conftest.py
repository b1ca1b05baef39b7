"""A stream of its own on a real NATS server, and a log of its own, for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dynlog.log import Log
from dynlog.open import open_log
from dynlog.testing.kinds import RunningServer
from tests.mirror.sides import OldSide, old_side


@pytest_asyncio.fixture
async def old(nats_server: RunningServer, dynlog_namespace: str) -> AsyncIterator[OldSide]:
    """The NATS side: a stream that listens to ``<name>.>``."""
    async with old_side(nats_server.url, dynlog_namespace) as side:
        yield side


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """The URL of the log of `log`."""
    return f"sqlite://{tmp_path}/events.db"


@pytest_asyncio.fixture
async def log(log_url: str) -> AsyncIterator[Log]:
    """The new side."""
    async with open_log(log_url) as opened:
        yield opened
