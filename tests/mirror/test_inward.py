"""A stream becomes a topic: every message once, in order, whoever else writes, and nothing on the stream changes."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.adapters.nats.access import open_nats
from dynlog.adapters.nats.streams import read_stream, stream_info
from dynlog.batch import StoredRecord
from dynlog.errors import ConfigurationError, SourceChanged, SourceNotFound
from dynlog.log import Log
from dynlog.migrations.mirror.book import TOPIC, open_book
from dynlog.migrations.mirror.choice import Choice
from dynlog.migrations.mirror.inbound import SOURCE
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.mirror.running import mirror_stream
from dynlog.migrations.nats.origin import SOURCE_LABEL, record_of
from dynlog.migrations.nats.spread import spread_of
from dynlog.record import Record
from tests.mirror.sides import OldSide, Told, append, bodies, once_in, once_out, records, running


async def test_a_message_keeps_body_subject_headers_and_time(old: OldSide, log: Log) -> None:
    await old.publish("eu.1", b"one", headers={"Trace": "a b", "Other": "c"})
    await old.publish("us.2", b"")
    assert (await once_in(old, log, "t"))["copied"] == 2
    first, second = [stored.record for stored in await records(log, "t")]
    assert first.parts == (b"one",)
    assert first.key == f"{old.name}.eu.1".encode()
    assert (first.headers["Trace"], first.headers["Other"]) == (b"a b", b"c")
    assert (await old.messages())[0].time is None or first.timestamp_ms > 0
    assert second.parts == (b"",)


async def test_a_mirror_follows_and_makes_no_consumer(old: OldSide, log: Log) -> None:
    told = Told()
    async with running(lambda server: mirror_stream(server, log, old.name, "t", told), old.access):
        await old.publish("a", b"1", b"2")
        await told.until(lambda now: now.counts.copied == 2)
        await old.publish("b", b"3")
        await told.until(lambda now: now.counts.copied == 3 and now.behind == 0)
        assert (await old.js.stream_info(old.name)).state.consumer_count == 0
    assert await bodies(log, "t") == [b"1", b"2", b"3"]


async def test_the_stream_is_as_it_was(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1", b"2", headers={"H": "v"})
    await old.js.pull_subscribe(f"{old.name}.>", durable="worker", stream=old.name)

    async def picture() -> object:
        info = await old.js.stream_info(old.name)
        consumers = [(c.name, c.config, c.ack_floor, c.delivered) for c in await old.js.consumers_info(old.name)]
        messages = [(m.seq, m.subject, m.headers, m.data) for m in await old.messages()]
        return info.config, info.state, info.created, consumers, messages

    before = await picture()
    await once_in(old, log, "t")
    assert await picture() == before


async def test_a_mirror_that_starts_again_doubles_nothing(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1", b"2")
    await once_in(old, log, "t")
    await old.publish("a", b"3")
    assert (await once_in(old, log, "t"))["copied"] == 1
    assert await bodies(log, "t") == [b"1", b"2", b"3"]


async def test_its_place_is_found_without_the_book_and_behind_what_others_wrote(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1", b"2")
    await once_in(old, log, "t")
    await append(log, "t", *(b"other %d" % n for n in range(300)))
    await log.delete_topic(TOPIC)
    await old.publish("a", b"3")
    counts = await once_in(old, log, "t")
    assert (counts["copied"], counts["already"]) == (1, 0)
    assert [body for body in await bodies(log, "t") if not body.startswith(b"other")] == [b"1", b"2", b"3"]


async def test_its_place_is_known_although_the_topic_kept_none_of_its_records(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1", b"2")
    await once_in(old, log, "t")
    (state,) = await log.partitions("t")
    await log.truncate("t", 0, state.end)
    await old.publish("a", b"3")
    assert (await once_in(old, log, "t"))["copied"] == 1
    assert await bodies(log, "t") == [b"3"]


async def test_a_message_that_no_record_can_hold_is_named_and_the_rest_goes_on(
    old: OldSide, log_url: str, log: Log
) -> None:
    limit = log.capabilities.max_batch_bytes
    server_limit = old.client.max_payload
    assert server_limit >= limit, "the case is possible"
    await old.publish("a", b"1", b"x" * (limit - 10), b"2")
    counts = await once_in(old, log, "t")
    assert (counts["copied"], counts["left_out"]) == (2, 1)
    assert await bodies(log, "t") == [b"1", b"2"]
    pages, _ = await (await open_book(log)).read()
    (page,) = pages.left_out.values()
    assert page.what == "2"
    assert f"{old.name}.a" in page.why


async def test_what_was_gone_before_it_could_be_mirrored_is_counted_and_named(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1")
    await once_in(old, log, "t")
    await old.publish("a", b"2", b"3", b"4")
    await old.js.purge_stream(old.name, seq=4)
    counts = await once_in(old, log, "t")
    assert (counts["copied"], counts["missed"]) == (1, 2)
    pages, _ = await (await open_book(log)).read()
    assert [page.what for page in pages.left_out.values()] == ["2-3"]


async def test_messages_deleted_within_the_stream_are_no_loss(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1", b"2", b"3")
    await old.js.delete_msg(old.name, 2)
    assert (await once_in(old, log, "t"))["missed"] == 0
    assert await bodies(log, "t") == [b"1", b"3"]


async def test_a_stream_made_anew_ends_the_mirror_and_the_next_one_takes_it_from_the_beginning(
    old: OldSide, log: Log
) -> None:
    told = Told()
    await old.publish("a", b"1", b"2")
    config = (await old.js.stream_info(old.name)).config
    async with running(lambda server: mirror_stream(server, log, old.name, "t", told), old.access) as mirror:
        await told.until(lambda now: now.counts.copied == 2)
        await old.js.delete_stream(old.name)
        await old.js.add_stream(config)
        with pytest.raises((SourceChanged, SourceNotFound), match=r"anew|not found"):
            await asyncio.wait_for(mirror, 20)
    await old.publish("a", b"3")
    await once_in(old, log, "t")
    assert await bodies(log, "t") == [b"1", b"2", b"3"]


async def test_only_what_matches_is_mirrored_and_another_choice_for_the_topic_is_refused(
    old: OldSide, log: Log
) -> None:
    await old.publish("eu", b"1")
    await old.publish("us", b"2")
    await old.publish("eu", b"3")
    await once_in(old, log, "t", choice=Choice(f"{old.name}.eu"))
    assert await bodies(log, "t") == [b"1", b"3"]
    with pytest.raises(ConfigurationError, match="for ever"):
        await once_in(old, log, "t", choice=Choice(f"{old.name}.us"))
    assert await bodies(log, "t") == [b"1", b"3"]


async def test_subjects_stay_together_and_in_order_over_partitions(old: OldSide, log: Log) -> None:
    for number in range(40):
        await old.publish(f"s{number % 4}", b"%d" % number)
    choice = Choice(partition_by="subject")
    await once_in(old, log, "t", partitions=3, choice=choice)
    await log.delete_topic(TOPIC)
    assert (await once_in(old, log, "t", choice=choice))["copied"] == 0
    found: dict[bytes | None, list[int]] = {}
    homes: dict[bytes | None, set[int]] = {}

    def note(stored: StoredRecord) -> None:
        found.setdefault(stored.record.key, []).append(int(bytes(stored.record.parts[0])))
        homes.setdefault(stored.record.key, set()).add(stored.partition)

    for partition in range(3):
        for stored in await records(log, "t", partition):
            note(stored)
    assert sorted(found.values()) == [list(range(n, 40, 4)) for n in range(4)]
    assert all(len(home) == 1 for home in homes.values())


async def test_a_stream_that_is_not_there_is_an_error_and_makes_no_topic(old: OldSide, log: Log) -> None:
    await old.js.delete_stream(old.name)
    with pytest.raises(SourceNotFound):
        await once_in(old, log, "t")
    assert [topic.name for topic in await log.topics()] == []


async def test_a_stream_that_has_gone_back_is_not_taken_for_what_it_was(old: OldSide, log: Log) -> None:
    """As after a power failure, or a restored copy: sequences that the topic has are given to other messages."""
    await old.publish("a", b"1", b"2", b"3")
    await once_in(old, log, "t")
    stored = (await records(log, "t"))[-1].record
    await log.create_topic("t2")
    for sequence, time_ns in ((3, 5), (9, 5)):
        place = stored.headers[SOURCE].decode().rsplit("/", 2)[0]
        headers = {**stored.headers, SOURCE: f"{place}/{sequence}/{time_ns}".encode()}
        await log.append("t2", 0, [Record(parts=(b"x",), headers=headers)])
        with pytest.raises(SourceChanged, match="gone back"):
            await once_in(old, log, "t2")


async def test_a_mirror_goes_on_behind_a_migration_and_nothing_migrated_goes_back(old: OldSide, log: Log) -> None:
    await old.publish("a", b"1", b"2")
    await log.create_topic("t", partitions=2)
    async with open_nats(old.access) as server:
        info = await stream_info(server, old.name)
        await log.label_topic("t", SOURCE_LABEL, f"{stream_place(info)} by token:2")
        spread = spread_of("token:2", 2)
        async for message in read_stream(server, info, first=1, last=1):
            await log.append("t", spread(message), [record_of(message, stream_place(info))])
    counts = await once_in(old, log, "t")
    assert counts["copied"] == 1
    everything = [*await bodies(log, "t", 0), *await bodies(log, "t", 1)]
    assert sorted(everything) == [b"1", b"2"]
    assert (await once_out(old, log, "t", f"{old.name}.back"))["returned"] == 2
    with pytest.raises(ConfigurationError, match="token:2"):
        await once_in(old, log, "t", choice=Choice(partition_by="subject"))
