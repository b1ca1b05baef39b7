"""What lies behind open buckets: opening, closing, snapshots in the middle of a batch, tasks that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from dynlog.kv import BucketSettings, open_kv
from dynlog.kv.leases import Leases
from dynlog.kv.lock import Lock
from dynlog.log import Log
from dynlog.open import open_log
from tests.kv.backend import NAME


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    async with open_log(f"memory://{uuid4().hex}") as opened:
        yield opened


async def test_what_has_a_lease_is_not_taken_from_it_by_the_buckets_time_to_live(log: Log) -> None:
    async with open_kv(log, compaction=None) as kv:
        bucket = await kv.create(NAME, BucketSettings(ttl_s=0.5))
        async with Leases(bucket) as leases:
            lease = await leases.grant(30.0)
            async with Lock(lease, "jobs"):
                assert [entry.ttl_ms for entry in await bucket.entries("jobs/")] == [0]
            await bucket.put("both", b"", lease=lease.id, ttl_s=100.0)
            assert [entry.ttl_ms for entry in await bucket.entries("both")] == [100_000]
