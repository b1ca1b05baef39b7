"""Opening a log: its own topic found or made, its capabilities derived from the settings that are in force there."""

from __future__ import annotations

from typing import NamedTuple

from dynlog.codec import MAX_BATCH_BYTES
from dynlog.errors import ConfigurationError
from dynlog.storage.kafka import admin
from dynlog.storage.kafka.cluster import Cluster, Place
from dynlog.storage.kafka.lanes import Lanes
from dynlog.storage.kafka.meta import Meta
from dynlog.storage.kafka.names import meta_name
from dynlog.storage.kafka.options import Settings
from dynlog.timing import Deadline
from dynlog.topics import Capabilities, Durability, DurabilityLevel

FIRST_ANSWER_S = 4.0
"""How long opening looks for a broker that answers at all."""
OPEN_S = 15.0
_LOG_OVERHEAD = 12
_NEVER = str((1 << 63) - 1)


class Parts(NamedTuple):
    """What opening made."""

    lanes: Lanes
    meta: Meta
    capabilities: Capabilities


async def open_parts(cluster: Cluster, settings: Settings) -> Parts:
    """The log's own topic, folded; LogUnavailable after 4 s without a broker that answers."""
    deadline, name = Deadline(OPEN_S), meta_name(settings.prefix)
    place = (await cluster.describe([name], Deadline(FIRST_ANSWER_S))).get(name)
    if place is None:
        place = await admin.create_topic(cluster, name, 1, settings.replication, deadline)
    else:
        place = await admin.visible(cluster, name, deadline)
    in_force = await admin.settings(cluster, name, deadline)
    limit = int(in_force.get("max.message.bytes") or MAX_BATCH_BYTES) - _LOG_OVERHEAD
    if settings.max_batch_bytes is not None:
        if settings.max_batch_bytes > limit:
            raise ConfigurationError(
                f"max_batch_bytes={settings.max_batch_bytes} is over the {limit} that the brokers take: raise their "
                "message.max.bytes, or leave the option out"
            )
        limit = settings.max_batch_bytes
    lanes = Lanes(cluster, max_batch_bytes=limit, compression=settings.compression)
    meta = Meta(cluster, lanes, place)
    await meta.sync(deadline)
    capabilities = Capabilities(
        engine="kafka",
        durability=_durability(place, in_force),
        checks_marks=False,
        fences_at_registration=False,
        compare_and_append=False,
        reads_latest=False,
        many_processes=True,
        single_host=False,
        max_batch_bytes=limit,
        server_time=True,
    )
    return Parts(lanes, meta, capabilities)


def _durability(place: Place, in_force: dict[str, str]) -> Durability:
    """What acks=all means with these settings: so many replicas have it; on one, it is written but not synced."""
    in_sync = min(place.replicas, int(in_force.get("min.insync.replicas") or 1))
    if in_sync > 1:
        return Durability(DurabilityLevel.REPLICATED, in_sync)
    synced = in_force.get("flush.messages", _NEVER) == "1"
    return Durability(DurabilityLevel.DISK if synced else DurabilityLevel.PROCESS)
