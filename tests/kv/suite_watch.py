"""Watching: the state, a marker, every change in order; resumed, overtaken, or the bucket gone: never in silence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynlog.errors import BucketNotFound, Closed, ConfigurationError, LogDiverged
from dynlog.kv import Bucket, Changed, Ready, Resync, open_kv
from dynlog.kv.records import Grant, Revoke
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import PATIENCE_S
from tests.consume.backend import until
from tests.kv.backend import NAME, KvBackend, contents, elsewhere, faulty, said, take, until_ready


class WatchSuite(KvBackend):
    async def test_a_watch_gives_the_state_a_marker_and_then_every_change_in_order(
        self, bucket: Bucket, log_url: str
    ) -> None:
        await bucket.put("b", b"1")
        await bucket.put("a", b"2")
        async with elsewhere(log_url) as other, other.watch() as watch:
            assert said(await take(watch, 3)) == ["+a=2", "+b=1", "ready"]
            await bucket.put("c", b"3")
            await bucket.delete("a")
            await other.put("b", b"4")
            events = await take(watch, 3)
            assert said(events) == ["c=3", "-a", "b=4"]
            revisions = [event.entry.revision for event in events if isinstance(event, Changed)]
            assert revisions == sorted(revisions)
            assert await watch.next(0.05) is None

    async def test_a_watch_of_a_key_or_a_prefix_gives_nothing_else(self, bucket: Bucket) -> None:
        await bucket.put("a/1", b"1")
        await bucket.put("a", b"2")
        async with bucket.watch("a") as key, bucket.watch(prefix="a/") as prefix:
            await bucket.put("a/2", b"3")
            await bucket.put("a", b"4")
            await bucket.put("b", b"5")
            await bucket.delete("a/1")
            await bucket.delete("a")
            assert said(await take(key, 4)) == ["+a=2", "ready", "a=4", "-a"]
            assert said(await take(prefix, 4)) == ["+a/1=1", "ready", "a/2=3", "-a/1"]
            assert await key.next(0) is await prefix.next(0) is None

    async def test_a_write_that_lost_is_no_change(self, bucket: Bucket) -> None:
        await bucket.put("k", b"1")
        async with bucket.watch() as watch:
            await until_ready(watch)
            for lost in (bucket.create("k", b"2"), bucket.update("k", b"2", 10**9), bucket.delete("other")):
                await asyncio.gather(lost, return_exceptions=True)
            await bucket.put("k", b"3")
            assert said(await take(watch, 1)) == ["k=3"]

    async def test_a_watch_goes_on_from_a_revision_and_misses_nothing(self, bucket: Bucket, log_url: str) -> None:
        await bucket.put("a", b"1")
        seen = await bucket.put("b", b"1")
        await bucket.put("a", b"2")
        await bucket.delete("b")
        async with bucket.watch(from_revision=seen) as watch:
            assert said(await take(watch, 3)) == ["a=2", "-b", "ready"]
            await bucket.put("c", b"3")
            assert said(await take(watch, 1)) == ["c=3"]
        async with elsewhere(log_url) as other, other.watch(prefix="b", from_revision=seen) as watch:
            assert said(await take(watch, 2)) == ["-b", "ready"]

    async def test_a_watch_goes_on_between_the_keys_of_a_lease_that_ended_and_misses_none(self, bucket: Bucket) -> None:
        await bucket.say(Grant("lease", 60_000, "owner"))
        for key in "abc":
            await bucket.put(key, b"1", lease="lease")
        async with bucket.watch() as watch:
            await until_ready(watch)
            await bucket.say(Revoke("lease"))
            (first,) = await take(watch, 1)
            assert isinstance(first, Changed)
        await bucket.put("d", b"2")
        async with bucket.watch(from_revision=first.entry.revision) as watch:
            assert said(await take(watch, 5)) == ["-a", "-b", "-c", "d=2", "ready"]

    async def test_a_watch_goes_on_from_the_marker_of_an_empty_bucket(self, bucket: Bucket) -> None:
        async with bucket.watch() as watch:
            (ready,) = await until_ready(watch)
            assert isinstance(ready, Ready)
        await bucket.put("k", b"1")
        async with bucket.watch(from_revision=ready.revision) as watch:
            assert said(await take(watch, 2)) == ["k=1", "ready"]

    async def test_a_revision_that_this_process_has_not_reached_is_waited_for(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with elsewhere(log_url) as other:
            for n in range(5):
                seen = await bucket.put("k", b"%d" % n)
                async with other.watch(from_revision=seen) as watch:
                    assert said(await take(watch, 1)) == ["ready"]

    async def test_a_revision_that_the_bucket_never_had_is_refused(self, bucket: Bucket) -> None:
        revision = await bucket.put("k", b"1")
        with pytest.raises(LogDiverged, match="another bucket"):
            async with bucket.watch(from_revision=revision + 1000):
                pass

    async def test_from_a_revision_that_was_compacted_past_it_is_told_and_given_the_state(
        self, bucket: Bucket, log_url: str
    ) -> None:
        seen = await bucket.put("a", b"1")
        await bucket.put("b", b"2")
        await bucket.compact()
        async with elsewhere(log_url) as other, other.watch(from_revision=seen) as watch:
            assert said(await take(watch, 4)) == ["resync", "+a=1", "+b=2", "ready"]
            await bucket.put("a", b"3")
            assert said(await take(watch, 1)) == ["a=3"]

    async def test_a_compaction_is_no_change_for_a_watcher(self, bucket: Bucket, log_url: str) -> None:
        await bucket.put("a", b"1")
        async with elsewhere(log_url) as other, other.watch() as there, bucket.watch() as here:
            await bucket.compact()
            await bucket.put("b", b"2")
            for watch in (here, there):
                assert said(await take(watch, 3)) == ["+a=1", "ready", "b=2"]

    async def test_a_watcher_that_falls_behind_is_told_and_given_the_state_again(self, bucket: Bucket) -> None:
        async with bucket.watch(most=3) as slow, bucket.watch() as quick:
            await until_ready(slow)
            for n in range(10):
                await bucket.put(f"k{n % 2}", b"%d" % n)
            (first, *rest) = await until_ready(slow)
            assert isinstance(first, Resync)
            assert "3 events" in first.reason
            assert said(rest) == ["+k0=8", "+k1=9", "ready"]
            await bucket.put("k0", b"10")
            assert said(await take(slow, 1)) == ["k0=10"]
            assert len(await take(quick, 12)) == 12

    async def test_changes_during_a_slow_reading_of_the_state_come_after_its_marker(self, bucket: Bucket) -> None:
        for key in ("a", "b", "c"):
            await bucket.put(key, b"1")
        async with bucket.watch() as watch:
            assert said(await take(watch, 1)) == ["+a=1"]
            await bucket.put("c", b"2")
            await bucket.delete("b")
            events = await take(watch, 5)
            assert said(events) == ["+b=1", "+c=1", "ready", "c=2", "-b"]
            ready = events[2]
            changed = events[3]
            assert isinstance(ready, Ready)
            assert isinstance(changed, Changed)
            assert ready.revision < changed.entry.revision

    async def test_the_watcher_of_a_bucket_that_is_deleted_gets_what_came_before_and_then_the_error(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with bucket.watch() as watch, bucket.watch() as waiting:
            await until_ready(watch)
            await until_ready(waiting)
            await bucket.put("k", b"1")
            assert said(await take(waiting, 1)) == ["k=1"]
            pending = asyncio.create_task(waiting.next())
            async with open_log(log_url) as second, open_kv(second) as there:
                await there.delete(NAME)
                await there.create(NAME)
            with pytest.raises(BucketNotFound, match="deleted"):
                await asyncio.wait_for(pending, PATIENCE_S)
            assert said(await take(watch, 1)) == ["k=1"]
            for _ in range(2):
                with pytest.raises(BucketNotFound, match="deleted"):
                    await watch.next(PATIENCE_S)

    async def test_a_follower_that_was_truncated_away_rebuilds_and_tells_its_watchers(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        async with faulty(log_url) as (other, behind):
            await other.put("a", b"1")
            async with other.watch() as watch:
                await until_ready(watch)
                behind.down = True
                await until(lambda: other.status().stale_since_ms is not None, "it is away")
                for n in range(20):
                    await bucket.put("b", b"%d" % n)
                await bucket.delete("a")
                done = await bucket.compact()
                await log.truncate("dynlog.kv." + NAME, 0, done.start, force=True)
                behind.down = False
                assert said(await take(watch, 3)) == ["resync", "+b=19", "ready"]
                assert await contents(other) == await contents(bucket) == {"b": b"19"}
                await other.put("c", b"1")
                assert said(await take(watch, 1)) == ["c=1"]

    async def test_closing_ends_a_watch(self, log: Log, bucket: Bucket) -> None:
        async with open_kv(log) as kv:
            watched = await kv.bucket(NAME)
            async with watched.watch() as watch:
                await until_ready(watch)
                pending = asyncio.create_task(watch.next())
                await kv.close()
                with pytest.raises(Closed):
                    await asyncio.wait_for(pending, PATIENCE_S)
        with pytest.raises(Closed):
            await watch.next()

    async def test_a_watch_that_cannot_be_is_refused(self, bucket: Bucket) -> None:
        wrong: list[dict[str, Any]] = [
            {"key": "a", "prefix": "b"}, {"from_revision": -2}, {"from_revision": "1"}, {"most": 0},
            {"key": b"a"}, {"prefix": b"a"},
        ]  # fmt: skip
        for options in wrong:
            with pytest.raises(ConfigurationError, match="watch"):
                bucket.watch(**options)
