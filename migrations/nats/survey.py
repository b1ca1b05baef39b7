"""The survey looks once at all that the source keeps in JetStream, so that every mover plans from the same picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.kv import KvBucketInfo, kv_buckets
from dynlog.adapters.nats.objects import ObjectBucket, object_buckets
from dynlog.adapters.nats.streams import StreamInfo, list_streams
from dynlog.log import Log
from dynlog.migrations.nats.contract import Choices
from dynlog.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that a plan is made from; ``streams`` are those that are neither an object nor a KV bucket's."""

    migration: str
    server: NatsServer
    log: Log
    objects: ObjectStore
    choices: Choices
    object_buckets: Sequence[ObjectBucket]
    kv_buckets: Sequence[KvBucketInfo]
    streams: Sequence[StreamInfo]


async def survey(
    migration: str, server: NatsServer, log: Log, objects: ObjectStore, choices: Choices
) -> Survey:
    """Looks at the source; raises what `NatsServer.api` raises."""
    stores, maps = await object_buckets(server), await kv_buckets(server)
    taken = {bucket.info.name for bucket in (*stores, *maps)}
    streams = [info for info in await list_streams(server) if info.name not in taken]
    return Survey(migration, server, log, objects, choices, stores, maps, streams)
