"""Key-value buckets: every revision that is left, with what was done, and the settings that a copy needs."""

from __future__ import annotations

import pytest
from nats.js.api import KeyValueConfig, StorageType

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.kv import KvBucketInfo, KvOp, kv_buckets, read_kv, ttl_seconds
from tests.nats_source.source import Writer, all_of, name_of


async def bucket_named(source: NatsServer, name: str) -> KvBucketInfo:
    (found,) = [bucket for bucket in await kv_buckets(source) if bucket.name == name]
    return found


async def test_every_revision_that_is_left_comes_in_order_with_what_was_done(
    source: NatsServer, writer: Writer
) -> None:
    name = name_of("kv")
    kv = await writer.js.create_key_value(
        KeyValueConfig(
            bucket=name, history=3, ttl=3600, max_value_size=1000, description="keys", storage=StorageType.MEMORY
        )
    )
    await kv.put("a.b/c=d", b"1")
    await kv.put("gone", b"2")
    await kv.put("a.b/c=d", b"")
    await kv.delete("gone")
    await kv.put("purged", b"3")
    await kv.purge("purged")
    await kv.put("later", b"4")
    bucket = await bucket_named(source, name)
    assert (bucket.history, bucket.ttl_s, bucket.max_value, bucket.description, bucket.mirror_of) == (
        3, 3600.0, 1000, "keys", None,
    )  # fmt: skip
    entries = await all_of(read_kv(source, bucket, last=6))
    assert [(e.key, e.value, e.revision, e.op) for e in entries] == [
        ("a.b/c=d", b"1", 1, KvOp.PUT), ("gone", b"2", 2, KvOp.PUT), ("a.b/c=d", b"", 3, KvOp.PUT),
        ("gone", None, 4, KvOp.DEL), ("purged", None, 6, KvOp.PURGE),
    ]  # fmt: skip
    assert all(entry.ttl is None and entry.time_ns > 0 for entry in entries)


async def test_a_time_to_live_of_an_entry_and_the_marker_that_it_leaves_are_told(
    source: NatsServer, writer: Writer
) -> None:
    name = name_of("ttl")
    await writer.api(
        f"STREAM.CREATE.KV_{name}",
        {
            "name": f"KV_{name}", "subjects": [f"$KV.{name}.>"], "storage": "memory", "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True, "allow_direct": True, "allow_msg_ttl": True,
            "subject_delete_marker_ttl": 60_000_000_000,
        },
    )  # fmt: skip
    await writer.js.publish(f"$KV.{name}.stays", b"1", headers={"Nats-TTL": "1h"})
    await writer.js.publish(f"$KV.{name}.goes", b"2", headers={"Nats-TTL": "1"})
    bucket = await bucket_named(source, name)
    stays, goes = await all_of(read_kv(source, bucket, last=2))
    assert (stays.ttl, goes.ttl) == (3600.0, 1.0)
    while (info := await writer.js.stream_info(f"KV_{name}")).state.last_seq < 3:
        pass
    stays, marker = await all_of(read_kv(source, bucket, last=info.state.last_seq))
    assert (marker.key, marker.value, marker.op, marker.revision) == ("goes", None, KvOp.PURGE, 3)
    assert marker.ttl == 60.0


async def test_a_mirror_of_a_bucket_has_its_keys(source: NatsServer, writer: Writer) -> None:
    name = name_of("kv")
    kv = await writer.js.create_key_value(KeyValueConfig(bucket=name, storage=StorageType.MEMORY))
    await kv.put("k", b"1")
    await writer.api(
        f"STREAM.CREATE.KV_{name}-copy",
        {"name": f"KV_{name}-copy", "mirror": {"name": f"KV_{name}"}, "storage": "memory", "allow_direct": True},
    )
    while (await writer.js.stream_info(f"KV_{name}-copy")).state.last_seq < 1:
        pass
    copy = await bucket_named(source, f"{name}-copy")
    assert copy.mirror_of == name
    assert [(entry.key, entry.value) for entry in await all_of(read_kv(source, copy, last=1))] == [("k", b"1")]


async def test_a_stream_that_only_has_the_name_of_a_bucket_is_none(source: NatsServer, writer: Writer) -> None:
    name = name_of("KV_")
    await writer.stream(name)
    assert name not in [f"KV_{bucket.name}" for bucket in await kv_buckets(source)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("1500ms", 1.5), ("never", None), ("", None), ("1h x", None),
        ("-1s", None), ("٣", None),
    ],
)  # fmt: skip
def test_a_time_to_live_is_read_as_the_server_reads_it(text: str, seconds: float | None) -> None:
    assert ttl_seconds(text) == seconds
