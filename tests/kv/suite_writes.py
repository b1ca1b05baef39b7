"""Writes and reads: who wins, what the loser learns, what whoever asks sees, and that a write happens at most once."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import (
    BucketExists,
    BucketNotFound,
    ConfigurationError,
    DeadlineExceeded,
    EntryTooLarge,
    KeyExists,
    LeaseLost,
    LogUnavailable,
    MalformedRecord,
    OutcomeUnknown,
    RevisionConflict,
)
from dynlog.kv import Bucket, BucketSettings, Op, open_kv
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import after_turns
from tests.consume.backend import until
from tests.faulty import Fault
from tests.kv.backend import NAME, KvBackend, contents, elsewhere, faulty


class WriteSuite(KvBackend):
    async def test_what_was_put_is_read_at_once_with_the_revision_that_was_returned(self, bucket: Bucket) -> None:
        first = await bucket.put("a/ü", b"1")
        second = await bucket.put("a/ü", memoryview(b"2"))
        entry = await bucket.get("a/ü")
        assert entry is not None
        assert (entry.value, entry.revision, entry.created, entry.changes) == (b"2", second, first, 2)
        assert entry.time_ms > 0
        assert bucket.revision >= second > first
        assert await bucket.get("a") is None

    async def test_an_empty_value_is_a_value(self, bucket: Bucket) -> None:
        await bucket.put("k", b"")
        entry = await bucket.get("k")
        assert entry is not None
        assert entry.value == b""

    async def test_of_many_creators_in_two_processes_exactly_one_wins_and_the_others_learn_its_revision(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with elsewhere(log_url) as other:
            tries = [each.create("k", f"{n}".encode()) for n in range(10) for each in (bucket, other)]
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
            (won,) = [outcome for outcome in outcomes if isinstance(outcome, int)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, KeyExists)]
            assert len(lost) == 19
            assert {(error.key, error.bucket, error.revision) for error in lost} == {("k", NAME, won)}
            assert await contents(bucket) == await contents(other)

    async def test_an_update_wins_only_against_the_revision_that_it_names(self, bucket: Bucket) -> None:
        with pytest.raises(RevisionConflict) as absent:
            await bucket.update("k", b"0", 0)
        assert absent.value.revision is None
        first = await bucket.put("k", b"1")
        second = await bucket.update("k", b"2", first)
        with pytest.raises(RevisionConflict) as lost:
            await bucket.update("k", b"3", first)
        assert lost.value.revision == second
        assert await contents(bucket) == {"k": b"2"}

    async def test_counting_with_updates_from_two_processes_loses_nothing(self, bucket: Bucket, log_url: str) -> None:
        await bucket.put("n", b"0")

        async def count(each: Bucket, times: int) -> None:
            while times:
                entry = await each.get("n", linearizable=True)
                assert entry is not None
                try:
                    await each.update("n", b"%d" % (int(entry.value) + 1), entry.revision)
                except RevisionConflict:
                    continue
                times -= 1

        async with elsewhere(log_url) as other:
            await asyncio.gather(*(count(each, 6) for each in (bucket, bucket, other, other)))
        assert await contents(bucket) == {"n": b"24"}

    async def test_a_deletion_says_whether_there_was_anything_and_may_name_a_revision(self, bucket: Bucket) -> None:
        assert await bucket.delete("k") is None
        first = await bucket.put("k", b"1")
        with pytest.raises(RevisionConflict):
            await bucket.delete("k", first + 1)
        gone = await bucket.delete("k", first)
        assert gone is not None
        assert gone > first
        with pytest.raises(RevisionConflict) as lost:
            await bucket.delete("k", first)
        assert lost.value.revision is None
        assert await bucket.get("k") is None
        await bucket.create("k", b"again")

    async def test_the_history_holds_the_last_changes_and_how_a_key_went_until_it_is_purged(self, old: Bucket) -> None:
        for n in range(7):
            await old.put("k", b"%d" % n)
        await old.delete("k")
        story = await old.history("k")
        assert [entry.value for entry in story] == [b"3", b"4", b"5", b"6", b""]
        assert [entry.op for entry in story] == [Op.PUT] * 4 + [Op.DELETE]
        await old.purge("k")
        assert await old.history("k") == []
        await old.put("k", b"new")
        await old.put("k", b"newer")
        await old.purge("k")
        assert [entry.value for entry in await old.history("k")] == [b"newer"]

    async def test_entries_are_those_under_the_prefix_in_order(self, bucket: Bucket) -> None:
        for key in ("b", "a/2", "a", "a/10", "a/1", "ab", "ä"):
            await bucket.put(key, key.encode())
        await bucket.delete("a/1")
        assert [entry.key for entry in await bucket.entries("a/")] == ["a/10", "a/2"]
        assert [entry.key for entry in await bucket.entries()] == ["a", "a/10", "a/2", "ab", "b", "ä"]
        assert len(bucket) == 6

    async def test_a_linearizable_get_sees_what_returned_in_another_process(self, bucket: Bucket, log_url: str) -> None:
        async with elsewhere(log_url) as other:
            for n in range(20):
                await bucket.put("k", b"%d" % n)
                entry = await other.get("k", linearizable=True)
                assert entry is not None
                assert entry.value == b"%d" % n

    async def test_a_write_whose_acknowledgement_is_lost_happens_once_and_its_writer_learns_how(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with faulty(log_url) as (other, log):
            log.faults += [Fault.STORED_UNSAID, Fault.NOT_STORED, Fault.STORED_UNSAID]
            revision = await other.create("k", b"mine")
            entry = await bucket.get("k", linearizable=True)
            assert entry is not None
            assert (entry.revision, entry.changes, entry.value) == (revision, 1, b"mine")
            log.faults += [Fault.STORED_UNSAID]
            with pytest.raises(KeyExists):
                await other.create("k", b"again")
            log.faults += [Fault.STORED_UNSAID]
            assert await other.update("k", b"2", revision) > revision

    async def test_a_write_that_is_out_of_time_before_it_was_sent_is_not_written(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with faulty(log_url) as (other, log):
            await other.put("warm", b"")
            log.gate.clear()
            under_way = asyncio.create_task(other.put("first", b"1", timeout=0.2))
            await after_turns(5)
            with pytest.raises(DeadlineExceeded):
                await other.put("second", b"2", timeout=0.05)
            third = asyncio.create_task(other.put("third", b"3"))
            await after_turns(5)
            third.cancel()
            with pytest.raises(OutcomeUnknown):  # it lies in the log's hands
                await under_way
            log.gate.set()
            await other.put("last", b"4")
            found = await contents(bucket)
            assert found.pop("first", b"1") == b"1"
            assert found == {"warm": b"", "last": b"4"}

    async def test_while_the_log_is_away_reads_are_answered_and_the_bucket_says_since_when(
        self, bucket: Bucket, log_url: str
    ) -> None:
        async with faulty(log_url) as (other, log):
            await other.put("k", b"1")
            log.down = True
            await until(lambda: other.status().stale_since_ms is not None, "it is noticed")
            entry = await other.get("k")
            assert entry is not None
            with pytest.raises((DeadlineExceeded, LogUnavailable, OutcomeUnknown)):
                await other.put("k", b"2", timeout=0.3)
            await bucket.put("k", b"meanwhile")
            log.down = False
            await until(lambda: other.status().stale_since_ms is None, "it is noticed")
            assert (await contents(other))["k"] in (b"meanwhile", b"2")
            assert await contents(other) == await contents(bucket)

    # Buckets

    async def test_of_many_that_create_a_bucket_exactly_one_succeeds(self, log_url: str, log: Log) -> None:
        async with open_log(log_url) as second, open_kv(log) as here, open_kv(second) as there:
            tries = [kv.create(NAME) for kv in (here, there, here, there)]
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes].count(BucketExists) == 3
            assert sum(isinstance(outcome, Bucket) for outcome in outcomes) == 1
            assert (await there.create(NAME, exist_ok=True)).name == NAME
            with pytest.raises(BucketExists, match="other settings"):
                await there.create(NAME, BucketSettings(history=9), exist_ok=True)

    async def test_buckets_are_listed_with_their_settings_and_deleted_for_everybody(self, log: Log) -> None:
        async with open_kv(log) as kv:
            assert await kv.buckets() == []
            await kv.create("b", BucketSettings(history=3, ttl_s=60.0))
            await (await kv.create("a")).put("k", b"v")
            await log.create_topic("no-bucket")
            infos = await kv.buckets()
            assert [(info.name, info.settings.history) for info in infos] == [("a", 1), ("b", 3)]
            await kv.delete("a")
            assert [info.name for info in await kv.buckets()] == ["b"]
            for call in (kv.delete("a"), kv.bucket("a")):
                with pytest.raises(BucketNotFound, match="'a'"):
                    await call

    async def test_a_bucket_that_was_deleted_under_its_user_says_so_and_one_made_anew_begins_empty(
        self, log: Log, bucket: Bucket, log_url: str
    ) -> None:
        await bucket.put("k", b"1")
        async with open_log(log_url) as second, open_kv(second) as there:
            await there.delete(NAME)
            fresh = await there.create(NAME)
            await until(lambda: bucket.follower.failure is not None, "it is noticed")
            for call in (bucket.get("k"), bucket.put("k", b"2"), bucket.get("k", linearizable=True)):
                with pytest.raises(BucketNotFound, match=NAME):
                    await call
            assert await contents(fresh) == {}

    # Bad input

    @pytest.mark.parametrize("key", ["", "k" * 1025, "ü" * 513, "\ud800"])
    async def test_a_key_that_is_none_is_refused_by_its_rule(self, bucket: Bucket, key: str) -> None:
        for call in (bucket.put(key, b""), bucket.create(key, b""), bucket.update(key, b"", 0), bucket.delete(key)):
            with pytest.raises(MalformedRecord, match="key"):
                await call
        await bucket.put("k" * 1024, b"")

    async def test_what_is_over_the_buckets_limits_is_refused_and_what_is_at_them_is_taken(self, log: Log) -> None:
        async with open_kv(log) as kv:
            small = await kv.create("small", BucketSettings(max_key_bytes=3, max_value_bytes=5))
            await small.put("kkk", b"vvvvv")
            with pytest.raises(EntryTooLarge, match="at most 3 bytes"):
                await small.put("kkkk", b"")
            with pytest.raises(EntryTooLarge, match="at most 5 bytes"):
                await small.put("k", b"vvvvvv")
            large = await kv.create("large")
            most = min(1 << 20, log.capabilities.max_batch_bytes - 6000)
            await large.put("k", b"v" * most)
            with pytest.raises(EntryTooLarge):
                await large.put("k", b"v" * (log.capabilities.max_batch_bytes))
            assert [len(value) for value in (await contents(large)).values()] == [most]

    async def test_revisions_times_and_values_of_the_wrong_kind_are_refused(self, bucket: Bucket) -> None:
        for call in (
            bucket.update("k", b"", -1),
            bucket.update("k", b"", "1"),  # type: ignore[arg-type]
            bucket.update("k", b"", True),
            bucket.delete("k", -1),
            bucket.put("k", "text"),  # type: ignore[arg-type]
            bucket.put("k", b"", ttl_s=0),
            bucket.put("k", b"", ttl_s=-1),
            bucket.put("k", b"", ttl_s=float("nan")),
            bucket.update("k", b"", 1 << 64),
            bucket.delete("k", 1 << 64),
            bucket.get(b"k"),  # type: ignore[arg-type]
            bucket.history(b"k"),  # type: ignore[arg-type]
            bucket.entries(b"k"),  # type: ignore[arg-type]
        ):
            with pytest.raises(ConfigurationError):
                await call
        with pytest.raises(LeaseLost) as lost:
            await bucket.put("k", b"", lease="nobody's")
        assert lost.value.lease == "nobody's"
        assert await contents(bucket) == {}

    async def test_settings_and_names_that_cannot_be_are_refused(self, log: Log) -> None:
        for history in (0, 65, -1, 1.5, True):
            with pytest.raises(ConfigurationError, match="history"):
                BucketSettings(history=history)  # type: ignore[arg-type]
        async with open_kv(log) as kv:
            with pytest.raises(ConfigurationError, match="this log takes"):
                await kv.create("big", BucketSettings(max_value_bytes=1 << 40))
            for name in ("", "a b", ".hidden", "a/b", "n" * 201):
                with pytest.raises(ConfigurationError, match="bucket name"):
                    await kv.create(name)
            assert await kv.buckets() == []
