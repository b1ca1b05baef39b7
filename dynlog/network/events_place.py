"""Where a subscription begins to read: at the end, or where an edge began that brought it to a topic later.

Nobody can have published as of an edge before the log took it, so reading from that time on misses nothing; what is
older is told apart by the offset that the event carries.
"""

from __future__ import annotations

from hashlib import sha256

from dynlog.batch import Position
from dynlog.entity import DynamoEntityID
from dynlog.log import Log
from dynlog.network.events import log_topic
from dynlog.network.publishing import ensure_topic
from dynlog.network.registry_edges import Since
from dynlog.partition import partition_of

CLOCKS_MS = 5_000
"""Log times of two topics may come from clocks that are so far apart."""
SHOWN = 80


async def positions_of(log: Log, entity: DynamoEntityID, since: Since | None) -> dict[int, Position]:
    """Where events for an entity are read: from the end, or from before its edge began; makes the topic if need be.

    Those of an instance lie in one partition, its key's.
    """
    name, partitions = log_topic(entity)
    await ensure_topic(log, name, partitions)
    info = await log.topic(name)
    wanted = range(info.partitions) if entity.is_collection else [partition_of(entity.key, info.partitions)]
    return {partition: await _position(log, name, partition, since) for partition in wanted}


async def _position(log: Log, name: str, partition: int, since: Since | None) -> Position:
    if since is None:
        return await log.position(name, partition, "end")
    return await log.position(name, partition, await log.offset_at(name, partition, max(since.time_ms - CLOCKS_MS, 0)))


def group_of(name: str, entity: DynamoEntityID, topic: str) -> str:
    """The log's group of a subscription's name: another entity or topic is another group.

    Members of one group are given each other's events, so all must want the same ones.
    """
    shown = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in topic[:SHOWN])
    return f"{name}:{shown}:{sha256(entity.key + topic.encode()).hexdigest()[:12]}"
