"""Times to live: what is none is refused wherever it comes in, and how long a log takes to answer moves no expiry."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from dynlog.errors import ConfigurationError
from dynlog.kv import BucketSettings, open_kv
from dynlog.kv.leases import Leases
from dynlog.kv.observer import Observer
from dynlog.kv.records import Lapse
from dynlog.open import open_log
from dynlog.timing import ManualClock
from tests.conformance.backend import after_turns
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


async def test_an_expiry_that_another_process_was_faster_with_and_whose_answer_came_late_delays_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, url = ManualClock(), f"memory://{uuid4().hex}"
    async with (
        open_log(url, clock=clock) as log, open_log(url, clock=clock) as other,
        open_kv(log, compaction=None, clock=clock) as kv, open_kv(other, compaction=None, clock=clock) as theirs,
    ):  # fmt: skip
        bucket = await kv.create(NAME)
        observer, stored, answered = Observer(bucket.follower, bucket._writer, clock), asyncio.Event(), asyncio.Event()
        revision = await bucket.put("k", b"", ttl_s=1)
        their = await theirs.bucket(NAME)
        append = log.append

        async def late(*what: Any, **how: Any) -> Any:
            await their.say(Lapse("k", revision))
            done = await append(*what, **how)
            stored.set()
            await answered.wait()
            return done

        with monkeypatch.context() as patch:
            patch.setattr(log, "append", late)
            clock.advance(1.1)
            saying = asyncio.create_task(observer.catch_up())
            await stored.wait()
            clock.advance(20)
            answered.set()
            await saying
        await bucket.put("j", b"", ttl_s=1)
        clock.advance(1.1)
        await observer.catch_up()
        await after_turns(5)
        assert await bucket.get("j") is None
