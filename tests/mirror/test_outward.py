"""A topic goes to given subjects: once, in order, and to nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from dynlog.errors import CommitFenced, ConfigurationError
from dynlog.log import Log
from dynlog.migrations.mirror.book import TOPIC, open_book
from dynlog.migrations.mirror.outward import group_of
from dynlog.migrations.mirror.running import mirror_out
from dynlog.record import Control, Record
from dynlog.testing.kinds import RunningServer
from tests.mirror.sides import (
    SHORTEST_WINDOW_S,
    OldSide,
    Told,
    append,
    bodies,
    old_side,
    once_in,
    once_out,
    records,
    running,
)


async def test_records_arrive_in_order_under_ids_of_incarnation_partition_and_offset(old: OldSide, log: Log) -> None:
    topic = await log.create_topic("t")
    await append(log, "t", b"1", b"2", b"3")
    assert (await once_out(old, log, "t", f"{old.name}.new"))["copied"] == 3
    messages = await old.messages()
    assert [message.data for message in messages] == [b"1", b"2", b"3"]
    ids = [(message.headers or {})["Nats-Msg-Id"] for message in messages]
    assert ids == [f"{topic.incarnation}/0/{offset}" for offset in range(3)]


async def test_it_writes_to_the_given_subjects_and_to_no_other(old: OldSide, log: Log) -> None:
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await log.create_topic("t")
    for word in ("eu", "us", "eu.deep"):
        await append(log, "t", word.encode(), key=f"{old.name}.{word}".encode())
    await append(log, "t", b"no key")
    await append(log, "t", b"no subject", key=b"a b")
    await append(log, "t", b"elsewhere", key=b"somebody.else")
    everything = await old.client.subscribe(">", cb=hear)
    await old.client.flush()
    counts = await once_out(old, log, "t", f"{old.name}.eu", f"{old.name}.*.deep")
    await old.client.flush()
    await everything.unsubscribe()
    written = {subject for subject in heard if not subject.startswith(("$JS.", "$SYS.", "_INBOX."))}
    assert written == {f"{old.name}.eu", f"{old.name}.eu.deep"}
    assert (counts["copied"], counts["left_out"]) == (2, 4)
    pages, _ = await (await open_book(log)).read()
    assert sorted(page.what for page in pages.left_out.values()) == ["0/1", "0/3", "0/4", "0/5"]


async def test_what_was_acknowledged_but_not_committed_is_not_sent_again_after_nats_forgot_its_ids(
    nats_server: RunningServer, dynlog_namespace: str, log: Log
) -> None:
    async with old_side(nats_server.url, dynlog_namespace, duplicate_window=SHORTEST_WINDOW_S) as old:
        subject = f"{old.name}.new"
        await log.create_topic("t")
        await append(log, "t", b"1", b"2")
        await once_out(old, log, "t", subject)
        book = await open_book(log)
        before = (await book.read())[0].progress
        await append(log, "t", b"3", b"4", b"5")
        await once_out(old, log, "t", subject)
        # As a kill between acknowledgement and commit leaves it:
        await log.open_generation(group_of([subject]), "t", {0: 3})
        for page in before.values():
            await book.say(page)
        await asyncio.sleep(SHORTEST_WINDOW_S * 3)
        counts = await once_out(old, log, "t", subject)
        assert (counts["copied"], counts["already"]) == (0, 2)
        assert await old.bodies() == [b"1", b"2", b"3", b"4", b"5"]


async def test_any_record_is_itself_again_behind_two_mirrors(old: OldSide, log: Log) -> None:
    strange = [
        Record(parts=(b"a", b"", b"\x00c"), key=b"\xff\x00", headers={"h": b"\xff", "o k": b"1\n2", "plain": b"x"}),
        Record(parts=(), key=None, control=Control.TOMBSTONE, timestamp_ms=5),
        Record(parts=(b"body",), headers={"Nats-Rollup": b"all", "Nats-Expected-Last-Sequence": b"9"}),
    ]
    await log.create_topic("t")
    await log.append("t", 0, strange)
    await once_out(old, log, "t", f"{old.name}.new")
    assert len(await old.messages()) == len(strange), "no header commands the server"
    await once_in(old, log, "back")
    for sent, got in zip(strange, [stored.record for stored in await records(log, "back")], strict=True):
        assert (got.parts, got.key, got.control, got.timestamp_ms) == (
            sent.parts, sent.key, sent.control, sent.timestamp_ms,
        )  # fmt: skip
        assert dict(sent.headers).items() <= dict(got.headers).items()


async def test_a_record_over_a_limit_of_the_server_or_the_stream_is_named_and_the_rest_goes_on(
    nats_server: RunningServer, dynlog_namespace: str, log: Log
) -> None:
    async with old_side(nats_server.url, dynlog_namespace, max_msg_size=1000) as old:
        await log.create_topic("t")
        large = old.client.max_payload - 100
        await append(log, "t", b"1")
        await append(log, "t", b"x" * large)
        await append(log, "t", b"y" * 2000)
        await append(log, "t", b"2")
        counts = await once_out(old, log, "t", f"{old.name}.new")
        assert (counts["copied"], counts["left_out"]) == (2, 2)
        assert await old.bodies() == [b"1", b"2"]


async def test_a_subject_that_no_stream_keeps_is_sent_to_whoever_listens(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    await append(log, "t", b"1", b"2")
    subject = f"core-{old.name}"
    listening = await old.client.subscribe(subject)
    await old.client.flush()
    await once_out(old, log, "t", subject)
    assert [(await listening.next_msg(5)).data for _ in range(2)] == [b"1", b"2"]


async def test_of_two_mirrors_of_the_same_the_older_ends_and_nothing_is_there_twice(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    subject = f"{old.name}.new"
    first, second = Told(), Told()
    async with running(
        lambda server: mirror_out(server, old.access, log, "t", [subject], first, patience_s=5.0), old.access
    ) as older:
        await append(log, "t", b"1")
        await first.until(lambda now: now.counts.copied == 1)
        async with running(
            lambda server: mirror_out(server, old.access, log, "t", [subject], second, patience_s=5.0), old.access
        ):
            await second.until(lambda now: True)
            await append(log, "t", b"2")
            with pytest.raises(CommitFenced):
                await asyncio.wait_for(older, 20)
            await second.until(lambda now: now.counts.copied + now.counts.already == 1)
    assert await old.bodies() == [b"1", b"2"]


async def test_a_full_stream_is_waited_for_and_nothing_is_left_out(
    nats_server: RunningServer, dynlog_namespace: str, log: Log
) -> None:
    async with old_side(nats_server.url, dynlog_namespace, max_msgs=2, discard=DiscardPolicy.NEW) as old:
        await log.create_topic("t")
        await append(log, "t", b"1", b"2", b"3", b"4")
        told = Told()
        subject = f"{old.name}.new"
        async with running(
            lambda server: mirror_out(server, old.access, log, "t", [subject], told, patience_s=60.0), old.access
        ):
            await told.until(lambda now: bool(now.outage))
            assert await old.bodies() == [b"1", b"2"]
            await old.js.update_stream(
                StreamConfig(name=old.name, subjects=[f"{old.name}.>"], max_msgs=10, discard=DiscardPolicy.NEW)
            )
            await told.until(lambda now: now.counts.copied + now.counts.already >= 4 and not now.outage)
        assert await old.bodies() == [b"1", b"2", b"3", b"4"]


async def test_outwards_without_a_subject_is_refused_and_so_are_the_servers_own(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    for wrong in ((), ("$JS.API.STREAM.DELETE.x",), ("a..b",), ("_INBOX.x",), ("a.>.b",)):
        with pytest.raises(ConfigurationError):
            await once_out(old, log, "t", *wrong)


async def test_what_was_truncated_by_force_is_missed_and_said(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    subject = f"{old.name}.new"
    await append(log, "t", b"1")
    await once_out(old, log, "t", subject)
    await append(log, "t", b"2", b"3")
    await log.truncate("t", 0, 2, force=True)
    counts = await once_out(old, log, "t", subject)
    assert (counts["copied"], counts["missed"]) == (1, 1)
    assert await old.bodies() == [b"1", b"3"]


async def test_records_that_wait_for_a_mirror_outwards_are_not_truncated(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    await append(log, "t", b"1")
    await once_out(old, log, "t", f"{old.name}.new")
    await append(log, "t", b"2", b"3")
    done = await log.truncate("t", 0, 3)
    assert done.earliest == 1
    assert done.blocked_by
    assert TOPIC in [topic.name for topic in await log.topics()]
    assert await bodies(log, "t") == [b"2", b"3"]
