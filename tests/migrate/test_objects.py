"""Every object of every bucket arrives with all that NATS knows of it, or is named, and the rest goes on."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from dynlog.migrations.nats.contract import MADE_BY
from dynlog.migrations.nats.keys import decode_name, key_of
from dynlog.migrations.nats.object_details import read_details
from dynlog.objects import ObjectStore
from tests.migrate.migrating import CHUNK, Migrating, body, bucket, put, said
from tests.nats_source.source import Writer, everything
from tests.nats_source.test_objects import rewrite

NAMES = [
    "plain", "folder/file.bin", "/rooted", "twice//slashed", "ends/", ".", "..", "up/../and/./down", "100%", "%2F",
    "back\\slash", "line\nfeed", "ümlaut/é", "a blank", "x" * 700, "dynlog-folder.json", "a", "a/b",
]  # fmt: skip


@pytest.mark.dynlog_stores("file", "s3")
async def test_every_object_arrives_under_a_key_that_leads_back_to_its_name(
    migrating: Migrating, writer: Writer, dynlog_objects: ObjectStore
) -> None:
    migrating = migrating.into(dynlog_objects)
    source = await bucket(writer, "weights")
    bodies = {name: body(number * 1000) for number, name in enumerate(NAMES)}
    for name, data in bodies.items():
        await put(source, name, data, description=f"about {name}"[:100], headers={"X-Kind": ["tensor"]})
    outcome = (await migrating.apply())["objects:weights"]
    assert (outcome.moved, outcome.refused) == (len(NAMES), ())
    for name, data in bodies.items():
        key = key_of("nats", "weights", name)
        assert await dynlog_objects.get_bytes(key) == data
        info = await dynlog_objects.head(key)
        details = await read_details(dynlog_objects, info)
        assert details is not None
        assert (details.bucket, details.name, details.size) == ("weights", name, len(data))
        assert (details.description, details.headers) == (f"about {name}"[:100], {"X-Kind": ["tensor"]})
        assert details.modified_ns > 1_700_000_000 * 10**9
        assert decode_name(key.removeprefix("nats/weights/")) in (name, None)
        assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert await migrating.differences() == {}


async def test_what_is_there_already_is_not_moved_again_and_what_is_new_is(
    migrating: Migrating, writer: Writer
) -> None:  # fmt: skip
    source = await bucket(writer, "weights")
    for name in "abc":
        await put(source, name, body(10))
    await migrating.apply()
    await put(source, "b", b"another")
    await put(source, "d", b"new")
    await source.delete("c")
    outcome = (await migrating.apply())["objects:weights"]
    assert (outcome.moved, outcome.already) == (2, 1)
    assert await migrating.keys() == ["nats/weights/a", "nats/weights/b", "nats/weights/d"]
    assert await migrating.objects.get_bytes("nats/weights/b") == b"another"
    assert await migrating.differences() == {}


async def test_a_copy_that_was_lost_since_is_made_again(migrating: Migrating, writer: Writer) -> None:
    await put(await bucket(writer, "weights"), "a", b"weights")
    await migrating.apply()
    await migrating.objects.delete("nats/weights/a")
    assert await migrating.differences() == {"objects:weights": ["a"]}
    assert (await migrating.apply())["objects:weights"].moved == 1
    assert await migrating.differences() == {}


async def test_a_links_copy_has_the_bytes_that_it_leads_to_and_says_that_it_is_a_link(
    migrating: Migrating, writer: Writer
) -> None:
    source, other = await bucket(writer, "weights"), await bucket(writer, "other")
    await put(source, "real", b"weights")
    link = {"link": {"bucket": "weights", "name": "real"}}
    await rewrite(writer, "weights", "near", options=link)
    await rewrite(writer, "other", "far", options=link)
    await rewrite(writer, "other", "all", options={"link": {"bucket": "weights"}})
    await rewrite(writer, "other", "nowhere", options={"link": {"bucket": "weights", "name": "gone"}})
    del other
    outcomes = await migrating.apply()
    assert outcomes["objects:weights"].refused == ()
    assert list(said(outcomes["objects:other"].refused)) == ["nowhere"]
    for key, link_to in (("nats/weights/near", "real"), ("nats/other/far", "real"), ("nats/other/all", None)):
        details = await read_details(migrating.objects, await migrating.objects.head(key))
        assert details is not None
        assert details.link == ("weights", link_to)
        assert await migrating.objects.get_bytes(key) == (b"weights" if link_to else b"")
    assert await migrating.differences() == {"objects:other": ["nowhere"]}


async def test_an_object_with_a_missing_chunk_is_named_and_the_rest_goes_on(
    migrating: Migrating, writer: Writer
) -> None:  # fmt: skip
    source = await bucket(writer, "weights")
    await put(source, "whole", body(3 * CHUNK))
    await put(source, "torn", body(3 * CHUNK))
    await writer.js.delete_msg("OBJ_weights", 6)
    outcome = (await migrating.apply())["objects:weights"]
    assert outcome.moved == 1
    assert list(said(outcome.refused)) == ["torn"]
    assert await migrating.keys() == ["nats/weights/whole"]
    assert await migrating.differences() == {"objects:weights": ["torn"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"digest": "SHA-256=" + "A" * 43 + "="}, "SHA-256"), ({"size": 7}, "7"), ({"raw": b"{"}, "")],
)
async def test_an_object_that_is_not_what_its_bucket_says_is_named_and_nothing_of_it_is_kept(
    migrating: Migrating, writer: Writer, changes: dict[str, Any], reason: str
) -> None:
    source = await bucket(writer, "weights")
    await put(source, "wrong", body(3 * CHUNK))
    await put(source, "right", body(CHUNK))
    await rewrite(writer, "weights", "wrong", **changes)
    refused = said((await migrating.apply())["objects:weights"].refused)
    assert list(refused) == ["wrong"]
    assert reason in refused["wrong"]
    assert await migrating.keys() == ["nats/weights/right"]


async def test_what_lies_in_the_target_and_is_not_ours_is_never_replaced(
    migrating: Migrating, writer: Writer
) -> None:  # fmt: skip
    source = await bucket(writer, "weights")
    await put(source, "a", b"of NATS")
    await put(source, "b", b"of NATS")
    await migrating.objects.put("nats/weights/a", b"somebody's", metadata={MADE_BY: "another"})
    outcome = (await migrating.apply())["objects:weights"]
    assert list(said(outcome.refused)) == ["a"]
    assert await migrating.objects.get_bytes("nats/weights/a") == b"somebody's"


async def test_a_rollback_removes_what_was_put_and_leaves_what_others_put_or_changed(
    migrating: Migrating, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    for name in ("a", "b", "x" * 700):
        await put(source, name, body(10), description="d" * 2000)
    await migrating.apply()
    await migrating.objects.put("nats/weights/others", b"o")
    b = await migrating.objects.head("nats/weights/b")
    await migrating.objects.put("nats/weights/b", b"changed", metadata=b.metadata)
    before = await everything(writer)
    outcome = (await migrating.roll_back())["objects:weights"]
    assert list(said(outcome.refused)) == ["nats/weights/b"]
    assert [key for key in await migrating.keys() if not key.startswith("nats-details")] == [
        "nats/weights/b", "nats/weights/others",
    ]  # fmt: skip
    assert await everything(writer) == before


async def test_a_sealed_and_a_compressed_bucket_are_read_like_any_other(migrating: Migrating, writer: Writer) -> None:
    source = await bucket(writer, "weights")
    await put(source, "a", b"sealed" * 1000)
    await source.seal()  # type: ignore[no-untyped-call]
    await writer.api(
        "STREAM.CREATE.OBJ_small",
        {
            "name": "OBJ_small", "subjects": ["$O.small.C.>", "$O.small.M.>"], "storage": "file", "compression": "s2",
            "allow_rollup_hdrs": True, "allow_direct": True, "discard": "new",
        },
    )  # fmt: skip
    await put(await writer.js.object_store("small"), "b", b"compressed" * 1000)
    plan = await migrating.plan()
    assert {item.source: item.notes for item in plan.items} == {"weights": ("sealed",), "small": ("compressed",)}
    assert {outcome.moved for outcome in (await migrating.apply()).values()} == {1}
    assert await migrating.differences() == {}
