"""A copy in another log: every record once and in order, groups where they stood, whenever it was interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from dynlog import copying
from dynlog.copying import SOURCE, Copied, copy_groups, copy_topic, topics_to_copy, verify_copy
from dynlog.errors import ConfigurationError, DynlogError, LogCorrupt
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Control, Mark, Record
from dynlog.topics import Retention
from tests.conformance.backend import TOPIC, bodies, fill, marked, numbered, record, stored
from tests.consume.backend import GROUP, ConsumeBackend, bodies_of, body, committed, keyed, member, take
from tests.faulty import FaultyLog


async def copied(source: Log, target: Log, topic: str = TOPIC) -> Copied:
    return await copy_topic(source, target, await source.topic(topic), lambda done: None)


def content(item: Record) -> Record:
    """The record without what a copy adds."""
    headers = {name: value for name, value in item.headers.items() if name != SOURCE}
    return replace(item, headers=headers, mark=None, parts=tuple(map(bytes, item.parts)))


class CopySuite(ConsumeBackend):
    """From this engine to memory, and back."""

    @pytest.fixture
    async def target(self) -> AsyncIterator[Log]:
        async with open_log(f"memory://{uuid4().hex}") as log:
            yield log

    async def test_a_copy_holds_every_record_as_it_was_in_its_partition_and_order(self, log: Log, target: Log) -> None:
        await log.create_topic(TOPIC, partitions=2, retention=Retention(max_bytes=1 << 20), labels={"owner": "x"})
        full = Record((b"a", b"\0\xff"), b"k", {"h": b"v"}, Control.END, 1234, Mark("p", 3, 7))
        await log.append(TOPIC, 0, [full, *keyed(50, 3)])
        await log.append(TOPIC, 1, numbered(5))
        outcome = await copied(log, target)
        assert (outcome.copied, outcome.already) == (56, 0)
        topic = await target.topic(TOPIC)
        assert (topic.partitions, topic.retention.max_bytes, topic.labels["owner"]) == (2, 1 << 20, "x")
        for partition in range(2):
            old, new = await stored(log, TOPIC, partition), await stored(target, TOPIC, partition)
            assert [content(s.record) for s in new] == [content(s.record) for s in old]
        assert (await stored(target))[0].record.mark == Mark("p", 3, 7)
        assert await verify_copy(log, target, await log.topic(TOPIC)) == 56

    async def test_a_bucket_is_not_copied_since_its_revisions_would_be_others(self, log: Log, target: Log) -> None:
        await log.create_topic("dynlog.kv.things", labels={"dynlog.kv": "{}"})
        await fill(log, 1)
        with pytest.raises(ConfigurationError, match="revisions"):
            await copied(log, target, "dynlog.kv.things")
        assert [topic.name for topic in await topics_to_copy(log, [])] == [TOPIC]

    async def test_a_copy_that_is_run_again_adds_only_what_is_new(self, log: Log, target: Log) -> None:
        await fill(log, 5)
        await copied(log, target)
        await log.append(TOPIC, 0, numbered(2, "late"))
        outcome = await copied(log, target)
        assert (outcome.copied, outcome.already) == (2, 5)
        assert await bodies(target) == [*(f"r{n}" for n in range(5)), "late0", "late1"]

    async def test_a_copy_goes_on_in_the_middle_of_where_it_stopped_although_others_append_meanwhile(
        self, log: Log, target: Log
    ) -> None:
        await fill(log, 3)
        await copied(log, target)
        await target.append(TOPIC, 0, numbered(20, "foreign"))
        await log.append(TOPIC, 0, numbered(2, "late"))
        assert (await copied(log, target)).copied == 2
        assert [b for b in await bodies(target) if "foreign" not in b] == ["r0", "r1", "r2", "late0", "late1"]

    async def test_records_whose_marks_the_target_would_take_for_repeats_are_not_lost(
        self, log: Log, target: Log
    ) -> None:
        """The target knows a newer epoch of the producer: its records come under marks of the copy."""
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        for _ in range(3):
            await target.register_producer("p")
        outcome = await copied(log, target)
        assert (outcome.copied, outcome.remarked) == (2, 2)
        assert await bodies(target) == ["a", "b"]

    async def test_records_whose_marks_somebody_used_in_the_copy_meanwhile_are_not_lost(
        self, log: Log, target: Log
    ) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        await copied(log, target)
        await target.append(TOPIC, 0, marked("p", 1, 50, "elsewhere"))
        await log.append(TOPIC, 0, marked("p", 1, 2, "c", "d"))
        assert (await copied(log, target)).copied == 2
        assert await bodies(target) == ["a", "b", "elsewhere", "c", "d"]
        assert await verify_copy(log, target, await log.topic(TOPIC)) == 4

    async def test_a_copy_never_goes_into_a_topic_that_holds_something_else(self, log: Log, target: Log) -> None:
        await fill(log, 3)
        await fill(target, 1)
        with pytest.raises(ConfigurationError, match="no copy"):
            await copied(log, target)
        assert await bodies(target) == ["r0"]
        with pytest.raises(ConfigurationError, match="same log"):
            await copied(log, log)

    async def test_a_group_goes_on_in_the_copy_at_the_record_at_which_it_stood_and_never_back(
        self, log: Log, log_url: str, target: Log
    ) -> None:
        await fill(log, 10)
        await log.truncate(TOPIC, 0, 3)  # so the offsets differ
        async with member(log_url) as consumer:
            assert [body(d) for d in await take(consumer, 3)] == ["r3", "r4", "r5"]
        info = await log.topic(TOPIC)
        await copied(log, target)
        assert await copy_groups(log, target, info) == (GROUP,)
        assert await committed(target) == {0: 3}
        async with member(target.url) as consumer:
            assert [body(d) for d in await take(consumer, 2)] == ["r6", "r7"]
        await copy_groups(log, target, info)
        assert await committed(target) == {0: 5}
        async with member(log_url) as consumer:
            await take(consumer, 4)
        await copy_groups(log, target, info)
        assert await committed(target) == {0: 7}, "a group at the end of the source is at the end of the copy"

    async def test_what_dynlog_keeps_for_groups_is_not_copied(self, log: Log, log_url: str) -> None:
        await fill(log, 1)
        async with member(log_url) as consumer:
            await take(consumer, 1)
        assert [t.name for t in await topics_to_copy(log, [])] == [TOPIC]

    async def test_verification_finds_a_record_that_differs(self, log: Log, target: Log) -> None:
        await fill(log, 3)
        await copied(log, target)
        info = await log.topic(TOPIC)
        (first, *_) = await stored(target)
        forged = replace(first.record, parts=(b"forged",), mark=None)
        name = (await target.topic(TOPIC)).labels
        await target.delete_topic(TOPIC)
        await target.create_topic(TOPIC, labels=name)
        await target.append(TOPIC, 0, [forged])
        with pytest.raises(LogCorrupt):
            await verify_copy(log, target, info)

    async def test_a_copy_of_a_copy_is_a_copy(self, log: Log, target: Log) -> None:
        await log.create_topic("other")
        await target.create_topic(TOPIC)
        await target.append(TOPIC, 0, [record("a", "k"), record("b")])
        async with open_log(f"memory://{uuid4().hex}") as third:
            await copied(target, log)
            await copied(log, third)
            assert await bodies(third) == ["a", "b"]

    async def test_a_record_that_comes_under_a_mark_of_the_copy_is_not_lost_beside_one_that_has_one_already(
        self, log: Log, target: Log
    ) -> None:
        """Both in one append: the later one's mark must not make the earlier one's a repeat."""
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a"))
        await copied(log, target)
        await target.append(TOPIC, 0, marked("p", 1, 50, "elsewhere"))
        await log.append(TOPIC, 0, [*marked("p", 1, 1, "b"), record("c"), *marked("p", 1, 2, "d")])
        assert (await copied(log, target)).copied == 3
        assert sorted(await bodies_of(target, TOPIC)) == ["a", "b", "c", "d", "elsewhere"]

    async def test_two_copies_at_once_leave_every_record_once(
        self, log: Log, target: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(copying, "MAX_RECORDS", 2)
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, marked("p", 1, 0, "a", "b"))
        await copied(log, target)
        await log.append(TOPIC, 0, [*marked("p", 1, 2, "c", "d"), record("e"), *marked("q", 0, 0, "f")])
        gated = FaultyLog(target)
        gated.gate.clear()
        slow = asyncio.create_task(copied(log, gated.log))
        await asyncio.sleep(0.05)  # it has looked how far the copy is, and is about to append
        await copied(log, target)
        gated.gate.set()
        await slow
        assert await bodies_of(target, TOPIC) == ["a", "b", "c", "d", "e", "f"]
        assert await verify_copy(log, target, await log.topic(TOPIC)) == 6

    @pytest.mark.parametrize("large", [True, False], ids=["too large", "too many headers"])
    async def test_a_record_that_has_no_room_for_where_it_comes_from_is_named(self, log: Log, large: bool) -> None:
        limit = 10_000
        odd = Record(parts=(bytes(limit - 60),)) if large else Record(headers={f"h{n}": b"" for n in range(256)})
        await log.create_topic(TOPIC, partitions=2)
        await log.append(TOPIC, 1, numbered(2))
        await log.append(TOPIC, 1, [odd])
        async with open_log(f"memory://{uuid4().hex}?max_batch_bytes={limit}") as narrow:
            with pytest.raises(DynlogError, match=r"cannot be copied.*partition 1, offset 2\)"):
                await copied(log, narrow)
            assert await bodies_of(narrow, TOPIC) == ["r0", "r1"] * large
