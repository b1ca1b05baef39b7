"""The bare loops that `migrate_bench` is measured against: nats-py and minio-py or a log, as a script of an afternoon.

``python -m benchmarks.migrate_peers objects|large|kv|stream NATS NAME TARGET``: each copies and checks nothing, resumes
nothing and keeps no journal.  TARGET is ``user:password@host:port/bucket`` for objects and a log's URL else.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
from minio import Minio
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.client import JetStreamContext

from dynlog.kv import open_kv
from dynlog.open import open_log
from dynlog.record import Record

FETCH = 1000
AT_ONCE = 64


def _minio(target: str) -> tuple[Minio, str]:
    login, _, place = target.rpartition("@")
    user, _, password = login.partition(":")
    endpoint, _, bucket = place.partition("/")
    return Minio(endpoint, user, password, secure=False), bucket


async def objects(js: JetStreamContext, name: str, target: str) -> None:
    """Every object of every bucket whose name begins so, one after the other."""
    client, into = _minio(target)
    for bucket in await _buckets(js, name):
        store = await js.object_store(bucket)
        for info in await store.list():
            assert info.name is not None
            data = (await store.get(info.name)).data or b""
            await asyncio.to_thread(client.put_object, into, f"{bucket}/{info.name}", io.BytesIO(data), len(data))


async def _buckets(js: JetStreamContext, name: str) -> list[str]:
    found: list[str] = []
    while page := await js.streams_info(offset=len(found)):
        found += [str(info.config.name).removeprefix("OBJ_") for info in page]
    return sorted(bucket for bucket in found if bucket.startswith(name))


async def large(js: JetStreamContext, name: str, target: str) -> None:
    """The one object of a bucket, by way of a file: nats-py gives it whole or into one."""
    client, into = _minio(target)
    store = await js.object_store(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        with path.open("wb") as file:
            await store.get("large", writeinto=file)
        await asyncio.to_thread(client.fput_object, into, "large", os.fspath(path))


async def kv(js: JetStreamContext, name: str, target: str) -> None:
    """What a watcher of the whole bucket brings, put as it comes, 64 at once."""
    source = await js.key_value(name)
    async with open_log(target) as log, open_kv(log, compaction=None) as store:
        bucket = await store.create("copy")
        room = asyncio.Semaphore(AT_ONCE)
        watcher = await source.watchall(include_history=True)
        async with asyncio.TaskGroup() as group:
            async for entry in watcher:
                if entry is None:
                    break
                await room.acquire()
                group.create_task(bucket.put(entry.key, entry.value or b"")).add_done_callback(lambda _: room.release())
        await watcher.stop()  # type: ignore[no-untyped-call]


async def stream(js: JetStreamContext, name: str, target: str) -> None:
    """Pulled by a consumer, 1,000 at a time, each batch appended as it is."""
    info = await js.stream_info(name)
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    subscription = await js.pull_subscribe("", stream=name, config=config)
    async with open_log(target) as log:
        await log.create_topic("copy")
        left = info.state.messages
        while left:
            messages = await subscription.fetch(min(FETCH, left), timeout=30)
            await log.append("copy", 0, [Record(key=m.subject.encode(), parts=(m.data,)) for m in messages])
            left -= len(messages)
    await subscription.unsubscribe()


LOOPS: dict[str, Callable[[JetStreamContext, str, str], Awaitable[None]]] = {
    "objects": objects, "large": large, "kv": kv, "stream": stream,
}  # fmt: skip


async def _main(what: str, url: str, name: str, target: str) -> None:
    client = await nats.connect(url)
    try:
        await LOOPS[what](client.jetstream(timeout=60), name, target)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
