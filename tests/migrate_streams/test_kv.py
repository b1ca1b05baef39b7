"""A JetStream bucket becomes a bucket of the log: values, history, deletions, and what is left of times to live."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from nats.js.api import KeyValueConfig, StorageType, StreamSource
from nats.js.kv import KeyValue

from dynlog.batch import StoredRecord
from dynlog.errors import ConfigurationError, SourceChanged, TopicNotFound
from dynlog.kv.rows import Op
from dynlog.kv.store import open_kv
from dynlog.log import Log
from dynlog.migrations.nats.contract import Choices
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.kv import KvMover, revision_of
from dynlog.migrations.nats.kv_copy import read_revision, write_revisions
from tests.migrate_streams.source import MIGRATION, Migration, Source, stopped_anywhere


def migration(source: Source, log: Log) -> Migration:
    return Migration(KvMover(), source.server, log, Choices())


async def bucket_of(source: Source, name: str, **config: object) -> KeyValue:
    return await source.js.create_key_value(KeyValueConfig(bucket=name, storage=StorageType.MEMORY, **config))  # type: ignore[arg-type]


async def values_of(log: Log, name: str) -> dict[str, bytes]:
    async with open_kv(log, compaction=None) as kv:
        return {entry.key: entry.value for entry in await (await kv.bucket(name)).entries()}


async def stored_in(log: Log, topic: str) -> AsyncIterator[StoredRecord]:
    batch = await log.read(await log.position(topic, 0))
    for stored in batch:
        yield stored


async def history_of(log: Log, name: str, key: str) -> list[tuple[Op, bytes]]:
    async with open_kv(log, compaction=None) as kv:
        return [(entry.op, entry.value) for entry in await (await kv.bucket(name)).history(key)]


async def test_present_values_history_and_deletions_are_moved(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "settings", history=5)
    await there.put("model", b"llama")
    await there.put("gone", b"x")
    await there.put("model", b"qwen")
    await there.delete("gone")
    await there.put("purged", b"secret")
    await there.purge("purged")
    await there.put("a/b.c", b"")
    moving = migration(source, dynlog_log)
    item = await moving.planned("settings")
    assert (item.target, item.count, item.refused) == ("settings", 4, ())

    outcome = await moving.apply(item)

    assert outcome.refused == ()
    assert await values_of(dynlog_log, "settings") == {"model": b"qwen", "a/b.c": b""}
    assert await history_of(dynlog_log, "settings", "model") == [(Op.PUT, b"llama"), (Op.PUT, b"qwen")]
    assert [op for op, _ in await history_of(dynlog_log, "settings", "gone")] == [Op.PUT, Op.DELETE]
    assert await history_of(dynlog_log, "settings", "purged") == []
    assert await moving.verify(item) == []


@pytest.mark.dynlog_engines("memory", "sqlite", "redis", "kafka")
async def test_a_second_run_writes_only_what_came_since(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b", history=3)
    for number in range(20):
        await there.put(f"k{number % 4}", b"%d" % number)
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    first = await moving.apply(item)
    await there.put("k0", b"new")
    await there.delete("k1")
    await there.purge("k2")

    second, third = await moving.apply(item), await moving.apply(item)

    assert (first.moved, second.moved, second.already, third.moved) == (12, 3, 12, 0)
    assert await values_of(dynlog_log, "b") == {"k0": b"new", "k3": b"19"}
    assert await history_of(dynlog_log, "b", "k2") == []
    assert await moving.verify(item) == []


async def test_an_apply_that_is_cancelled_anywhere_goes_on_and_ends_the_same(
    source: Source, dynlog_log: Log, dice: random.Random
) -> None:
    there = await bucket_of(source, "b", history=2)
    for number in range(120):
        await there.put(f"k{number % 40}", b"%d " % number + b"x" * 60_000)
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    ends = await stopped_anywhere(moving, item, dice)
    assert any(0 < end < 80 for end in ends), "no apply was stopped in the middle"

    outcome = await moving.apply(item)

    assert outcome.refused == ()
    assert len(await values_of(dynlog_log, "b")) == 40
    assert len(await history_of(dynlog_log, "b", "k7")) == 2
    assert await moving.verify(item) == []


async def test_a_value_lives_for_what_it_has_left_and_no_longer(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b", ttl=600)
    await there.put("k", b"v")
    await asyncio.sleep(0.05)
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    async with open_kv(dynlog_log, compaction=None) as kv:
        bucket = await kv.bucket("b")
        entry = await bucket.get("k")
        assert bucket.settings.ttl_s == 600
    assert entry is not None
    assert 590_000 < entry.ttl_ms <= 599_950
    assert await moving.verify(item) == []


async def test_a_value_with_a_time_of_its_own_keeps_that(source: Source, dynlog_log: Log) -> None:
    await bucket_of(source, "b")
    await source.server.api("STREAM.INFO.KV_b")
    config = (await source.js.stream_info("KV_b")).config
    await source.js.delete_stream("KV_b")
    config.allow_msg_ttl = True
    await source.js.add_stream(config)
    await source.js.publish("$KV.b.short", b"v", headers={"Nats-TTL": "120s"})
    await source.js.publish("$KV.b.ever", b"v", headers={"Nats-TTL": "never"})
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    async with open_kv(dynlog_log, compaction=None) as kv:
        entries = {entry.key: entry.ttl_ms for entry in await (await kv.bucket("b")).entries()}
    assert entries["ever"] == 0
    assert 110_000 < entries["short"] <= 120_000


async def test_keys_of_live_instances_are_listed_and_not_copied(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "mixed")
    await there.put("v1/instances/ns/c/e/1f", b"{}")
    await there.put("instances/ns/c/e/20", b"{}")
    await there.put("other", b"kept")
    only = await bucket_of(source, "v1_instances")
    await only.put("ns/c/e/1f", b"{}")
    items = {item.source: item for item in await migration(source, dynlog_log).plan()}
    assert items["v1_instances"].target == ""
    assert items["mixed"].count == 1
    assert items["mixed"].settings["keys_of_instances"] == ["instances/ns/c/e/20", "v1/instances/ns/c/e/1f"]
    assert any("v1/instances/ns/c/e/1f" in note for note in items["mixed"].notes)
    moving = migration(source, dynlog_log)
    await moving.apply(items["mixed"])
    assert await values_of(dynlog_log, "mixed") == {"other": b"kept"}
    assert await moving.verify(items["mixed"]) == []


async def test_what_was_written_in_the_log_since_is_not_overwritten(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b")
    await there.put("k", b"old")
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    async with open_kv(dynlog_log, compaction=None) as kv:
        await (await kv.bucket("b")).put("k", b"the new side's")
    await there.put("k", b"the old side's")
    await there.put("other", b"fine")

    outcome = await moving.apply(item)

    assert [refusal.name for refusal in outcome.refused] == ["b key k (revision 2)"]
    assert await values_of(dynlog_log, "b") == {"k": b"the new side's", "other": b"fine"}
    assert [difference.name for difference in await moving.verify(item)] == ["b key k (revision 2)", "b key k"]


async def test_a_bucket_that_was_compacted_since_is_not_written_to(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b", history=2)
    for number in range(6):
        await there.put(f"k{number % 3}", b"%d" % number)
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    async with open_kv(dynlog_log, compaction=None) as kv:
        await (await kv.bucket("b")).compact()
    assert await moving.verify(item) == []
    assert (await moving.apply(item)).moved == 0
    await there.put("k0", b"late")
    with pytest.raises(ConfigurationError, match="lives on"):
        await moving.apply(item)


async def test_the_journal_knows_which_revision_became_which(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b", history=4)
    sources = [await there.put(f"k{number}", b"v") for number in range(5)]
    await there.purge("k1")
    sources.append(await there.put("k9", b"v"))
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    journal = await Journal.read(dynlog_log, MIGRATION)
    async with open_kv(dynlog_log, compaction=None) as kv:
        bucket = await kv.bucket("b")
        for key, revision in zip(["k0", "k2", "k3", "k4", "k9"], [sources[0], *sources[2:]], strict=True):
            entry = await bucket.get(key)
            assert entry is not None
            assert revision_of(journal, item.id, revision) == entry.revision
    assert revision_of(journal, item.id, 9_999) is None


def test_revisions_are_written_in_runs_and_read_back() -> None:
    pairs = [(3, 0), (4, 1), (7, 2), (7, 3), (8, 4), (9, -1), (12, 6)]
    text = write_revisions(iter(pairs))
    assert text == "3+2@0 7@2 8@4 12@6"
    assert [read_revision(text, source) for source in (3, 4, 5, 7, 8, 9, 12)] == [0, 1, None, 2, 4, None, 6]


@pytest.mark.dynlog_engines("sqlite")
async def test_a_value_over_the_logs_limit_is_named_and_no_older_one_stands_for_it(
    source: Source, dynlog_log: Log
) -> None:
    there = await bucket_of(source, "b", history=3)
    await there.put("k", b"small")
    await there.put("k", b"x" * (source.server.max_payload - 10))
    await there.put("fine", b"v")
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    assert [refusal.name for refusal in item.refused] == ["b key k (revision 2)"]

    outcome = await moving.apply(item)

    assert [refusal.name for refusal in outcome.refused] == ["b key k (revision 2)"]
    assert await values_of(dynlog_log, "b") == {"fine": b"v"}
    assert (await moving.apply(item)).refused == outcome.refused
    assert [difference.name for difference in await moving.verify(item)] == ["b key k"]


async def test_buckets_that_would_be_mistaken_for_each_other_are_refused_by_name(
    source: Source, dynlog_log: Log
) -> None:
    for name in ("a_b", "a-b", "c"):
        await bucket_of(source, name)
    moving = migration(source, dynlog_log)
    items = {item.source: item for item in (await moving.whole_plan()).items}
    assert {name: item.target for name, item in items.items()} == {"a_b": "", "a-b": "", "c": "c"}
    assert "a-b" in items["a_b"].refused[0].why
    (alone,) = (await moving.whole_plan(only=["kv:a*"], exclude=["a-b"])).items
    await moving.apply(alone)
    assert (await moving.whole_plan(only=["a-b"], exclude=["a_b"])).moving == []


async def test_a_bucket_that_is_anothers_is_not_written_into(source: Source, dynlog_log: Log) -> None:
    async with open_kv(dynlog_log, compaction=None) as kv:
        await (await kv.create("b")).put("mine", b"1")
    await bucket_of(source, "b")
    item = await migration(source, dynlog_log).planned("b")
    assert item.target == ""
    assert "none of NATS" in item.refused[0].why


async def test_verify_names_keys_that_differ_and_those_that_vanished_from_the_source(
    source: Source, dynlog_log: Log
) -> None:
    there = await bucket_of(source, "b", history=2)
    for key in ("same", "changed", "vanished", "deleted"):
        await there.put(key, b"v")
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    await there.put("changed", b"w")
    await there.delete("deleted")
    await there.put("new", b"n")
    await source.js.purge_stream("KV_b", subject="$KV.b.vanished")
    async with open_kv(dynlog_log, compaction=None) as kv:
        await (await kv.bucket("b")).put("only here", b"v")

    differences = {difference.name: difference.what for difference in await moving.verify(item)}

    assert set(differences) == {"b key changed", "b key vanished", "b key deleted", "b key new"}
    assert "another value" in differences["b key changed"]
    assert "without a trace" in differences["b key vanished"]


async def test_verify_names_a_revision_of_the_past_that_is_not_in_the_log(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b", history=3)
    for value in (b"one", b"two", b"three"):
        await there.put("k", value)
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    topic = await dynlog_log.topic("dynlog.kv.b")
    records = [stored.record async for stored in stored_in(dynlog_log, "dynlog.kv.b")]
    await dynlog_log.delete_topic("dynlog.kv.b")
    await dynlog_log.create_topic("dynlog.kv.b", labels=dict(topic.labels))
    changed = replace(records[0], parts=(records[0].parts[0], b"other"))
    await dynlog_log.append("dynlog.kv.b", 0, [changed, records[2]])

    differences = {difference.name: difference.what for difference in await moving.verify(item)}

    assert differences == {
        "b key k (revision 1)": "is another change in the log than in the source",
        "b key k (revision 2)": "was passed over in the log",
    }


async def test_a_bucket_that_was_made_anew_is_another(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b")
    await there.put("k", b"v")
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    await source.js.delete_key_value("b")
    await bucket_of(source, "b")
    with pytest.raises(SourceChanged, match="made anew"):
        await moving.apply(item)
    assert (await moving.planned("b")).target == ""


async def test_a_rollback_removes_the_bucket_unless_others_wrote_into_it(source: Source, dynlog_log: Log) -> None:
    for name in ("ours", "shared"):
        await (await bucket_of(source, name)).put("k", b"v")
    moving = migration(source, dynlog_log)
    ours, shared = [await moving.planned(name) for name in ("ours", "shared")]
    await moving.apply(ours)
    await moving.apply(shared)
    async with open_kv(dynlog_log, compaction=None) as kv:
        await (await kv.bucket("shared")).put("n", b"new")

    assert (await moving.rollback(ours)).moved == 1
    left = await moving.rollback(shared)

    with pytest.raises(TopicNotFound):
        await dynlog_log.topic("dynlog.kv.ours")
    assert "1 keys" in left.refused[0].why
    assert await values_of(dynlog_log, "shared") == {"k": b"v", "n": b"new"}


async def test_a_whole_migration_changes_nothing_on_the_source(source: Source, dynlog_log: Log) -> None:
    there = await bucket_of(source, "b", history=3)
    for number in range(10):
        await there.put(f"k{number % 3}", b"%d" % number)
    await there.delete("k1")
    before = await source.picture()
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    await moving.apply(item)
    await moving.verify(item)
    await moving.rollback(item)
    assert await source.picture() == before


async def test_a_key_that_the_log_cannot_have_is_named_and_the_rest_goes_on(source: Source, dynlog_log: Log) -> None:
    await bucket_of(source, "b")
    long = "k" * 1_500
    await source.js.publish(f"$KV.b.{long}", b"v")
    await source.js.publish("$KV.b.fine", b"v")
    moving = migration(source, dynlog_log)
    item = await moving.planned("b")
    outcome = await moving.apply(item)
    assert [refusal.name for refusal in outcome.refused] == [f"b key {long}"]
    assert item.refused == outcome.refused
    assert await values_of(dynlog_log, "b") == {"fine": b"v"}
    assert [difference.name for difference in await moving.verify(item)] == [f"b key {long}"]


async def test_what_lies_in_a_buckets_stream_and_is_no_key_of_it_is_named(source: Source, dynlog_log: Log) -> None:
    await (await bucket_of(source, "first")).put("a", b"1")
    sources = [StreamSource(name="KV_first")]
    await source.js.add_stream(name="KV_second", subjects=["$KV.second.>"], sources=sources, max_msgs_per_subject=1)
    second = await source.js.key_value("second")
    await second.put("b", b"2")
    async with asyncio.timeout(20):
        while (await source.js.stream_info("KV_second")).state.messages < 2:
            pass
    moving = migration(source, dynlog_log)
    item = await moving.planned("second")
    assert [refusal.name for refusal in item.refused] == ["second subject $KV.first.a"]
    assert "no key of the bucket" in item.refused[0].why
    await moving.apply(item)
    assert await values_of(dynlog_log, "second") == {"b": b"2"}
    assert [difference.name for difference in await moving.verify(item)] == ["second subject $KV.first.a"]
