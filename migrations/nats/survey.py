"""The survey looks once at all that the source keeps in JetStream, so that every mover plans from the same picture."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.kv import KvBucketInfo, kv_buckets
from dynlog.adapters.nats.names import component_of
from dynlog.adapters.nats.objects import ObjectBucket, object_buckets
from dynlog.adapters.nats.streams import StreamInfo, list_streams
from dynlog.errors import SourceError, SourceUnavailable
from dynlog.log import Log
from dynlog.migrations.nats.contract import Choices, Item, Refusal
from dynlog.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that a plan is made from.

    ``event_streams`` are those in which Dynamo keeps KV events (the router's mover takes them); ``streams`` are those
    that are neither of these nor a bucket's.  ``log_url`` and ``objects_url`` are where it will all go, which need not
    be there yet: then ``log`` and ``objects`` are empty ones in memory.
    """

    migration: str
    server: NatsServer
    log: Log
    objects: ObjectStore
    choices: Choices
    object_buckets: Sequence[ObjectBucket]
    kv_buckets: Sequence[KvBucketInfo]
    event_streams: Sequence[StreamInfo]
    streams: Sequence[StreamInfo]
    log_url: str
    objects_url: str
    models: dict[str, bool] = field(default_factory=dict)
    """Which object buckets are models', as far as that was looked at."""
    unread: dict[str, SourceError] = field(default_factory=dict)
    """Object buckets that could not be looked into for that, and why."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is in JetStream."""
        return not (self.object_buckets or self.kv_buckets or self.event_streams or self.streams)


async def look_around(
    migration: str,
    server: NatsServer,
    log: Log,
    objects: ObjectStore,
    choices: Choices,
    *,
    log_url: str | None = None,
    objects_url: str | None = None,
) -> Survey:
    """Looks at the source; raises what `NatsServer.api` raises."""
    stores, maps = await object_buckets(server), await kv_buckets(server)
    taken = {bucket.info.name for bucket in stores} | {bucket.info.name for bucket in maps}
    others = [info for info in await list_streams(server) if info.name not in taken]
    events = [info for info in others if component_of(info.name) is not None]
    streams = [info for info in others if component_of(info.name) is None]
    return Survey(
        migration, server, log, objects, choices, stores, maps, events, streams, log_url or log.url,
        objects_url or objects.url,
    )  # fmt: skip


async def planned_or_named(kind: str, source: str, created: str, planning: Awaitable[Item]) -> Item:
    """The planned item; one that this user may not read, or that is gone, is not moved and says why.

    Raises SourceUnavailable, which all others would meet as well.
    """
    try:
        return await planning
    except SourceUnavailable:
        raise
    except SourceError as error:
        refused = (Refusal(name=source, why=str(error)),)
        return Item(kind=kind, source=source, target="", created=created, refused=refused)
