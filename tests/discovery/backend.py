"""What the discovery tests work with: a bucket, a lease as the fold knows it, and values as Dynamo writes them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dynlog.discovery.directory import BUCKET, Directory
from dynlog.discovery.names import InstanceName, ModelName
from dynlog.kv import Bucket, open_kv
from dynlog.kv.records import Grant, Revoke
from dynlog.log import Log
from dynlog.open import open_log

PATIENCE_S = 20.0
_NUMBERS = itertools.count()


def name(instance: int = 0x4D2, endpoint: str = "generate") -> InstanceName:
    return InstanceName("dynamo", "backend", endpoint, instance)


def dynamo_instance(of: InstanceName, address: str = "10.0.0.7:5555/x") -> bytes:
    """With spaces and an order of its own: what is imported keeps its bytes."""
    return json.dumps(
        {
            "type": "Endpoint", "component": of.component, "endpoint": of.endpoint, "namespace": of.namespace,
            "instance_id": of.instance_id, "transport": {"tcp": address}, "device_type": None,
        },
        indent=1,
    ).encode()  # fmt: skip


def dynamo_card(of: ModelName, model: str = "Qwen/Qwen3-0.6B") -> bytes:
    instance = of.instance
    said = {
        "type": "Model", "namespace": instance.namespace, "component": instance.component,
        "endpoint": instance.endpoint, "instance_id": instance.instance_id, "card_json": {"display_name": model},
    }  # fmt: skip
    return json.dumps({**said, "model_suffix": of.suffix} if of.suffix else said).encode()


class FoldLease:
    """A lease by the facts alone, without a process that keeps it alive."""

    def __init__(self, bucket: Bucket, id: str, token: int) -> None:
        self.bucket, self.id, self.token = bucket, id, token
        self.lost = asyncio.Event()

    @classmethod
    async def grant(cls, bucket: Bucket) -> FoldLease:
        id = f"lease-{next(_NUMBERS)}"
        outcome = await bucket.say(Grant(id, 600_000, "a test"))
        return cls(bucket, id, outcome.offset)

    async def revoke(self) -> None:
        await self.bucket.say(Revoke(self.id))


@asynccontextmanager
async def opened(log: Log) -> AsyncIterator[Directory]:
    """A directory over a bucket, which is created if it is not there."""
    async with open_kv(log, compaction=None) as kv:
        yield Directory(await kv.create(BUCKET, exist_ok=True))


@asynccontextmanager
async def directory() -> AsyncIterator[Directory]:
    """A directory of its own, on memory."""
    async with open_log("memory://") as log, opened(log) as made:
        yield made
