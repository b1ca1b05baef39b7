"""Reading changes nothing: streams, configuration, every message and every consumer are the same afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nats.js.api import KeyValueConfig, ObjectStoreConfig

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.adapters.nats.kv import kv_buckets, read_kv
from dynlog.adapters.nats.objects import list_objects, object_buckets, read_object
from dynlog.adapters.nats.stats import service_stats
from dynlog.adapters.nats.streams import list_consumers, list_streams, read_stream, subjects_of
from dynlog.testing.nats import NatsServer as Served
from tests.nats_source.source import Writer, all_of, everything, writing


async def furnished(writer: Writer) -> None:
    """Something of each kind."""
    await writer.stream("direct")
    await writer.stream("leader", direct=False)
    for name in ("direct", "leader"):
        await writer.fill(name, 50)
        await writer.js.delete_msg(name, 20)
        await (await writer.js.pull_subscribe(f"{name}.>", durable="router", stream=name)).fetch(10)
    kv = await writer.js.create_key_value(KeyValueConfig(bucket="kv", history=5))
    for number in range(10):
        await kv.put(f"k{number % 3}", b"%d" % number)
    await kv.delete("k1")
    store = await writer.js.create_object_store("objects", ObjectStoreConfig(bucket="objects"))
    await store.put("o", b"x" * 300_000)
    await store.put("gone", b"x")
    await store.delete("gone")


async def read_all(source: NatsServer) -> int:
    """Everything that can be read."""
    count = 0
    for info in await list_streams(source):
        await list_consumers(source, info.name)
        await subjects_of(source, info.name)
        for subject in (None, ">"):
            count += len(await all_of(read_stream(source, info, first=1, last=info.last_seq, subject=subject)))
    for bucket in await kv_buckets(source):
        count += len(await all_of(read_kv(source, bucket, last=bucket.info.last_seq)))
    for objects in await object_buckets(source):
        for object in await list_objects(source, objects):
            count += 0 if object.deleted else len(await all_of(read_object(source, object)))
    await service_stats(source, "nobody", timeout=0.1)
    return count


async def test_whatever_is_read_nothing_on_the_server_changes_and_no_consumer_is_made(tmp_path: Path) -> None:
    async with Served(tmp_path / "nats") as server, writing(server.url) as writer:
        await furnished(writer)
        before = await everything(writer)
        assert set(before) == {"direct", "leader", "KV_kv", "OBJ_objects"}
        made = await writer.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>")
        async with open_nats(NatsAccess(server.url)) as source:
            assert await read_all(source) > 200
        await asyncio.wait_for(writer.client.flush(), 10)
        assert made.pending_msgs == 0
        assert await everything(writer) == before
