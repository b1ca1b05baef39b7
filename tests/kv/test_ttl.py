"""Times to live that are none are refused as such, wherever they come in."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from dynlog.errors import ConfigurationError
from dynlog.kv import BucketSettings, open_kv
from dynlog.kv.leases import Leases
from dynlog.open import open_log
from tests.kv.backend import NAME

NONE = ["5", b"5", "", [], True, False, float("nan"), float("inf"), float("-inf"), -1, 0, 10**400]


@pytest.mark.parametrize("wrong", NONE, ids=lambda wrong: f"{type(wrong).__name__}-{wrong!r:.8}")
async def test_a_time_to_live_that_is_no_number_of_seconds_is_refused_everywhere(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="ttl_s="):
        BucketSettings(ttl_s=wrong)
    async with open_log(f"memory://{uuid4().hex}") as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create(NAME)
        writes = (
            bucket.put("k", b"", ttl_s=wrong),
            bucket.create("k", b"", ttl_s=wrong),
            bucket.update("k", b"", 0, ttl_s=wrong),
        )
        for write in writes:
            with pytest.raises(ConfigurationError, match="ttl_s="):
                await write
        async with Leases(bucket) as leases:
            with pytest.raises(ConfigurationError, match="ttl_s="):
                await leases.grant(wrong)
        assert len(bucket) == 0
        assert bucket.revision == -1
