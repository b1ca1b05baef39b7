"""The peers of the key-value benchmark: etcd through aetcd (gRPC) and NATS's key-value store through nats-py.

Each is used as its documentation shows.  etcd syncs its log before it acknowledges; NATS does with ``sync_interval:
always``, and by default every two minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import aetcd
import nats


class Store(Protocol):
    """What the benchmark does with a key-value store; a watcher has a connection of its own."""

    async def put(self, key: str, value: bytes) -> None:
        """Returns once the value is acknowledged."""

    async def get(self, key: str) -> bytes:
        """A read that may be a moment old."""

    async def get_latest(self, key: str) -> bytes | None:
        """A read that sees every write that was acknowledged before; None if the store has none."""

    async def watch(self, prefix: str, count: int, ready: asyncio.Event) -> None:
        """Sets ``ready`` once it watches, and returns after so many changes."""


class Etcd:
    """etcd through aetcd."""

    def __init__(self, port: int, client: Any) -> None:
        self._port, self._client = port, client

    async def put(self, key: str, value: bytes) -> None:
        await self._client.put(key.encode(), value)

    async def get(self, key: str) -> bytes:
        found = await self._client.get(key.encode(), serializable=True)
        return bytes(found.value)

    async def get_latest(self, key: str) -> bytes | None:
        found = await self._client.get(key.encode())
        return bytes(found.value)

    async def watch(self, prefix: str, count: int, ready: asyncio.Event) -> None:
        async with aetcd.Client(host="127.0.0.1", port=self._port) as client:
            watching = await client.watch_prefix(prefix.encode())
            ready.set()
            async for _ in watching:
                count -= 1
                if not count:
                    break
            await watching.cancel()


@asynccontextmanager
async def open_etcd(port: int) -> AsyncIterator[Etcd]:
    """A client of the etcd at that port."""
    async with aetcd.Client(host="127.0.0.1", port=port) as client:
        yield Etcd(port, client)


class Nats:
    """NATS's key-value store through nats-py, files in JetStream, history of 1 as by default."""

    BUCKET = "bench"

    def __init__(self, url: str, bucket: Any) -> None:
        self._url, self._bucket = url, bucket

    async def put(self, key: str, value: bytes) -> None:
        await self._bucket.put(key, value)

    async def get(self, key: str) -> bytes:
        return bytes((await self._bucket.get(key)).value)

    async def get_latest(self, key: str) -> bytes | None:
        """Its read goes to any replica that has the message: it has no other."""
        return None

    async def watch(self, prefix: str, count: int, ready: asyncio.Event) -> None:
        client = await nats.connect(self._url)
        try:
            watching = await (await client.jetstream().key_value(self.BUCKET)).watch(f"{prefix}.>")
            async for entry in watching:
                if entry is None:  # what was there before is told
                    ready.set()
                    continue
                count -= ready.is_set()
                if not count:
                    break
            await watching.stop()  # type: ignore[no-untyped-call]
        finally:
            await client.close()


@asynccontextmanager
async def open_nats(url: str) -> AsyncIterator[Nats]:
    """A client of the NATS server at that URL, with a bucket in files."""
    async with AsyncExitStack() as stack:
        client = await nats.connect(url)
        stack.push_async_callback(client.close)
        bucket = await client.jetstream().create_key_value(bucket=Nats.BUCKET, history=1, storage="file")
        yield Nats(url, bucket)
