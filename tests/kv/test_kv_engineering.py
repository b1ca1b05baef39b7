"""What the suite cannot see from outside: shared appends, shared barriers, bounds, order of keys, what is recent."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Self
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlog.batch import Batch, Position
from dynlog.delivery import DeliveryPolicy
from dynlog.errors import Closed, ConfigurationError, LogUnavailable, OutcomeUnknown, UnsupportedLogVersion
from dynlog.kv import Bucket, BucketSettings, CompactionPolicy, open_kv
from dynlog.kv.keys import KeyOrder
from dynlog.kv.pictures import FIRST, behind, next_pictures
from dynlog.kv.recent import Recent
from dynlog.kv.records import Put, to_record
from dynlog.kv.rows import Row
from dynlog.kv.settings import settings_of
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from tests.conformance.backend import after_turns
from tests.faulty import Fault, FaultyLog
from tests.kv.backend import NAME, contents, elsewhere, faulty, said, take

QUICK = DeliveryPolicy(timeout_s=0.3, attempt_timeout_s=0.1)


class Asked(FaultyLog):
    """A log that answers a read of one record, which is the question where it ends, once it is let; with what it was
    when it was asked."""

    def __init__(self, url: str) -> None:
        self._stack = AsyncExitStack()
        self._url = url
        self.answers = asyncio.Event()
        self.answers.set()
        self._asked = asyncio.Event()

    @property
    def once(self) -> Awaitable[object]:
        """Until it was asked."""
        return self._asked.wait()

    async def read(self, position: Position, *, max_records: int | None = None, **how: Any) -> Batch:
        batch = await super().read(position, max_records=max_records, **how)
        if max_records == 1:
            self._asked.set()
            await self.answers.wait()
        return batch

    async def __aenter__(self) -> Self:
        super().__init__(await self._stack.enter_async_context(open_log(self._url)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def test_many_writers_share_appends(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url) as (other, behind):
        await other.put("warm", b"")
        behind.appends.clear()
        await asyncio.gather(*(other.put(f"k{n}", b"") for n in range(100)))
        assert behind.appends == [1, 99], "the first goes at once, the others together behind it"
        await asyncio.gather(*(other.put(f"k{n}", b"") for n in range(100)))
        assert behind.appends == [1, 99, 100]


async def test_many_linearizable_readers_share_a_question_to_the_log(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url) as (other, behind):
        await other.put("warm", b"")
        appends, reads = list(behind.appends), behind.reads
        await asyncio.gather(*(other.get(f"k{n}", linearizable=True) for n in range(100)))
        assert behind.appends == appends, "nothing is written"
        assert behind.reads - reads <= 3, "theirs, and the follower's"


async def test_a_question_that_was_asked_before_is_none_for_who_comes_later(bucket: Bucket, log_url: str) -> None:
    async with elsewhere(log_url) as other, Asked(log_url) as asked, open_kv(asked.log, compaction=None) as kv:
        third = await kv.bucket(NAME)
        asked.answers.clear()
        first = asyncio.create_task(third.get("k", linearizable=True))
        await asked.once
        await other.put("k", b"new")
        second = asyncio.create_task(third.get("k", linearizable=True))
        await after_turns(5)
        asked.answers.set()
        await first
        found = await second
        assert found is not None
        assert found.value == b"new"


async def test_where_reads_may_be_late_many_linearizable_readers_share_a_barrier(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url) as (other, behind):
        behind.reads_latest = False
        await other.put("warm", b"")
        behind.appends.clear()
        await asyncio.gather(*(other.get(f"k{n}", linearizable=True) for n in range(100)))
        assert behind.appends == [1]
        behind.appends.clear()
        await asyncio.gather(other.get("k0", linearizable=True), *(other.put(f"k{n}", b"") for n in range(9)))
        assert behind.appends == [10], "a barrier goes with the writes"


async def test_a_barrier_that_was_sent_before_is_none_for_who_comes_later(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url) as (other, behind):
        behind.reads_latest = False
        await other.put("warm", b"")
        behind.gate.clear()
        first = asyncio.create_task(other.barrier())
        await after_turns(5)
        second = asyncio.create_task(other.barrier())
        await after_turns(5)
        behind.gate.set()
        assert await second > await first


@pytest.mark.parametrize("reads_latest", [True, False])
async def test_a_cancelled_caller_takes_nothing_from_the_others_of_its_barrier(
    bucket: Bucket, log_url: str, reads_latest: bool
) -> None:
    async with faulty(log_url) as (other, behind):
        behind.reads_latest = reads_latest
        await other.put("warm", b"")
        behind.gate.clear()
        calls = [asyncio.create_task(other.barrier()) for _ in range(3)]
        await after_turns(1 if reads_latest else 5)
        calls[0].cancel()
        behind.gate.set()
        assert await calls[1] == await calls[2]


async def test_a_linearizable_get_outlasts_a_log_that_is_away_and_gives_up_in_time(
    bucket: Bucket, log_url: str
) -> None:
    async with faulty(log_url) as (other, behind):
        await other.put("k", b"v")
        behind.down = True
        with pytest.raises(LogUnavailable):
            await other.get("k", linearizable=True, timeout=0.2)
        waiting = asyncio.create_task(other.get("k", linearizable=True))
        await after_turns(5)
        behind.down = False
        assert await waiting is not None


async def test_closing_ends_a_linearizable_get(bucket: Bucket, log_url: str) -> None:
    async with Asked(log_url) as asked:
        async with open_kv(asked.log, compaction=None) as kv:
            other = await kv.bucket(NAME)
            asked.answers.clear()
            waiting = asyncio.create_task(other.get("k", linearizable=True))
            await asked.once
        with pytest.raises(Closed):
            await waiting


async def test_what_waits_to_be_written_is_bounded(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url) as (other, behind):
        await other.put("warm", b"")
        behind.gate.clear()
        tasks = [asyncio.create_task(other.put(f"k{n}", b"v" * (1 << 19))) for n in range(40)]
        await after_turns(20)
        behind.gate.set()
        await asyncio.gather(*tasks)
        assert len(await contents(bucket)) == 41
        assert max(behind.appends) <= 2, "an append has at most what the log takes"


async def test_a_write_that_was_given_up_is_unknown_and_its_late_copy_is_refused(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url, delivery=QUICK) as (other, behind):
        await other.put("k", b"1")
        behind.faults += [Fault.GHOST] * 50
        with pytest.raises(OutcomeUnknown):
            await other.put("k", b"ghost")
        behind.faults.clear()
        await other.put("k", b"2")
        for topic, partition, records in behind.ghosts:
            await asyncio.gather(behind.log.append(topic, partition, records), return_exceptions=True)
        assert await contents(bucket) == await contents(other) == {"k": b"2"}


async def test_a_put_that_is_alone_and_out_of_time_ends_in_time_and_leaves_its_task_as_it_was(
    bucket: Bucket, log_url: str
) -> None:
    async with faulty(log_url) as (other, behind):
        await other.put("warm", b"")
        task = asyncio.current_task()
        assert task is not None
        behind.gate.clear()  # and the log keeps to no time that it is given
        async with asyncio.timeout(5):
            with pytest.raises(OutcomeUnknown):
                await other.put("k", b"1", timeout=0.05)
        assert not task.cancelling()
        behind.gate.set()
        assert await other.put("k", b"2") > 0


async def test_whoever_is_cancelled_in_the_instant_in_which_his_put_is_out_of_time_is_cancelled(
    bucket: Bucket, log_url: str
) -> None:
    async with faulty(log_url) as (other, behind):
        await other.put("warm", b"")
        behind.gate.clear()
        loop = asyncio.get_running_loop()
        putting = asyncio.create_task(other.put("k", b"1", timeout=0.05))
        await after_turns(5)
        loop.call_at(loop.time() + 0.05, putting.cancel)
        time.sleep(0.1)  # noqa: ASYNC251 both are due in the next round of the loop
        with pytest.raises(asyncio.CancelledError):
            await putting
        behind.gate.set()
        assert await other.put("k", b"2") > 0


async def test_a_log_that_is_surely_not_reached_writes_nothing_and_says_so(bucket: Bucket, log_url: str) -> None:
    async with faulty(log_url, delivery=QUICK) as (other, behind):
        await other.put("k", b"1")
        behind.faults += [Fault.NOT_STORED] * 50
        with pytest.raises(LogUnavailable):
            await other.put("k", b"2")
        behind.faults.clear()
        assert await contents(bucket) == {"k": b"1"}


async def test_closing_completes_what_was_sent_and_refuses_what_comes(log: Log, log_url: str) -> None:
    async with open_kv(log) as kv:
        await kv.create(NAME)
    wrapped = FaultyLog(log)
    kv = open_kv(wrapped.log)
    bucket = await kv.bucket(NAME)
    await bucket.put("warm", b"")
    wrapped.gate.clear()
    sent = asyncio.create_task(bucket.put("k", b"1"))
    await after_turns(5)
    closing = asyncio.create_task(kv.close())
    await after_turns(5)
    with pytest.raises(Closed):
        await bucket.put("late", b"")
    wrapped.gate.set()
    await closing
    assert await sent >= 0
    await kv.close()
    for call in (bucket.get("k"), bucket.put("k", b""), kv.bucket(NAME)):
        with pytest.raises(Closed):
            await call
    assert [holder.holder.name for holder in await log.holders("dynlog.kv." + NAME)] == []
    async with elsewhere(log_url) as other:
        assert set(await contents(other)) == {"warm", "k"}


async def test_a_foreign_record_in_the_topic_is_counted_and_changes_nothing(log: Log, bucket: Bucket) -> None:
    await bucket.put("k", b"1")
    await log.append("dynlog.kv." + NAME, 0, [Record(parts=(b"noise",), key=b"k"), Record()])
    await bucket.barrier()
    assert bucket.status().malformed == 2
    assert await contents(bucket) == {"k": b"1"}


async def test_a_bucket_of_a_newer_dynlog_and_a_topic_that_is_none_are_refused(log: Log) -> None:
    await log.create_topic("dynlog.kv.newer", labels={"dynlog.kv": '{"version": 2}'})
    await log.create_topic("dynlog.kv.none", labels={"dynlog.kv": "[]"})
    async with open_kv(log) as kv:
        with pytest.raises(UnsupportedLogVersion, match="version 2"):
            await kv.bucket("newer")
        with pytest.raises(ConfigurationError, match="no key-value bucket"):
            await kv.bucket("none")
    assert (
        settings_of(await log.create_topic("dynlog.kv.x", labels={"dynlog.kv": '{"version": 1}'})) == BucketSettings()
    )


async def test_a_repeat_of_what_was_compacted_away_is_a_repeat_also_for_who_begins_behind_it() -> None:
    """Where marks are left to the reader, who begins at a compaction learns from it which were seen."""
    url = f"memory://{uuid4().hex}?checks_marks=false"
    async with open_log(url) as log, open_kv(log, compaction=None) as kv:
        bucket = await kv.create(NAME)
        record = replace(to_record(Put("k", b"1")), mark=Mark("p", 1, 0))
        await log.append("dynlog.kv." + NAME, 0, [record])
        await bucket.put("k", b"2")
        assert (await bucket.compact()).truncation.earliest > 1
        await log.append("dynlog.kv." + NAME, 0, [record])
        async with elsewhere(url) as fresh:
            assert fresh.status().started_from != "offset 0"
            assert await contents(fresh) == await contents(bucket) == {"k": b"2"}


async def test_what_changed_while_a_compaction_went_on_is_not_known_one_by_one_to_who_begins_there(
    log: Log, bucket: Bucket, log_url: str
) -> None:
    """Before it is complete a state cannot tell what is a change."""
    await bucket.put("a", b"1")
    start, place = bucket.revision + 1, FIRST
    while place is not None:
        pictures = next_pictures(bucket.follower.fold, start, place, 1000)
        for picture in pictures:
            await bucket.say(picture)
        await bucket.put("a", b"2")
        place = behind(pictures[-1])  # type: ignore[assignment]
    await bucket.follower.hold()
    await log.truncate("dynlog.kv." + NAME, 0, start)
    async with elsewhere(log_url) as fresh, fresh.watch(from_revision=start) as watch:
        assert said(await take(watch, 3)) == ["resync", "+a=2", "ready"]


@pytest.mark.parametrize("wrong", [{"min_records": 0}, {"dirty": 0.0}, {"dirty": 1.0}, {"every_s": 0.0}])
def test_a_compaction_policy_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        CompactionPolicy(**wrong)  # type: ignore[arg-type]


KEYS = st.text("abc", min_size=1, max_size=4)


@given(st.lists(st.tuples(KEYS, st.booleans())), KEYS, KEYS, st.integers(0, 5))
def test_the_order_of_keys_is_that_of_a_sorted_set(
    changes: list[tuple[str, bool]], low: str, high: str, limit: int
) -> None:
    order, model = KeyOrder(), set[str]()
    for key, add in changes:
        if add and key not in model:
            order.add(key)
            model.add(key)
        elif not add and key in model:
            order.discard(key)
            model.discard(key)
    everything = sorted(model)
    assert order.between("") == everything
    assert order.between(low, high) == [key for key in everything if low < key <= high]
    assert order.between(low, limit=limit) == [key for key in everything if key > low][:limit]
    assert list(order.under(low)) == [key for key in everything if key.startswith(low)]


@pytest.mark.parametrize("bulk", [False, True])
def test_the_order_of_many_keys_goes_over_leaves_and_a_picture_of_it_stays(bulk: bool) -> None:
    dice = random.Random(1)
    keys = [f"{dice.getrandbits(40):x}" for _ in range(20_000)]
    order = KeyOrder()
    if bulk:
        order.add_all(keys[:15_000])
        order.add_all(keys[15_000:])
    else:
        for key in keys:
            order.add(key)
    picture = order.picture()
    for key in keys[:10_000]:
        order.discard(key)
    for n in range(5_000):
        order.add(f"~{n:06}")
    assert [key for leaf in picture for key in leaf] == sorted(keys)
    assert order.between("") == sorted(keys[10_000:]) + [f"~{n:06}" for n in range(5_000)]
    assert list(order.under("a")) == [key for key in sorted(keys[10_000:]) if key.startswith("a")]
    assert order.between("b", "c") == [key for key in sorted(keys[10_000:]) if "b" < key <= "c"]


def row(revision: int, value: bytes = b"") -> Row:
    return (value, revision, revision, 1, 0, "", 0, 0)


def test_what_is_recent_is_bounded_and_says_how_far_back_it_goes() -> None:
    recent = Recent(most=3, most_bytes=100)
    recent.begin(10)
    recent.add([("a", row(11)), ("b", row(12)), ("c", row(12))])
    assert recent.since(8) is None
    assert recent.since(9) == [("a", row(11)), ("b", row(12)), ("c", row(12))]
    assert recent.since(11) == [("b", row(12)), ("c", row(12))]
    assert recent.since(12) == [("b", row(12)), ("c", row(12))], "whoever stopped there may have seen but one of them"
    assert recent.since(99) == []
    recent.add([("d", row(13))])
    assert recent.since(10) is None
    assert recent.since(11) is not None
    recent.add([("e", row(14)), ("f", row(15))])
    assert recent.since(11) is None, "one of two changes at revision 12 is forgotten, so revision 12 is not whole"
    assert recent.since(12) is None, "nor can anybody go on in the midst of it"
    assert recent.since(13) == [("e", row(14)), ("f", row(15))]
    recent.add([("g", row(16, b"v" * 90)), ("h", row(17, b"v" * 90))])
    assert recent.since(15) is None
    assert recent.since(16) == [("h", row(17, b"v" * 90))]
