"""A new bucket on a log in memory, for tests of no engine; suites have fixtures of their own by those names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from dynlog.kv import Bucket, open_kv
from dynlog.log import Log
from dynlog.open import open_log
from tests.kv.backend import NAME


@pytest.fixture
def log_url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[Log]:
    async with open_log(log_url) as opened:
        yield opened


@pytest.fixture
async def bucket(log: Log) -> AsyncIterator[Bucket]:
    async with open_kv(log, compaction=None) as kv:
        yield await kv.create(NAME)
