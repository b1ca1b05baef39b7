"""Dynamo's ZMQ event plane as items for the ingest: each (publisher, sequence) once, gaps counted.

Multipart ``[topic, publisher_id u64 BE, sequence u64 BE, frame]``.  The plane has no replay: what was lost is lost,
which is said and counted.  Marks are (``dynamo-<publisher>-<worker>``, 0, sequence), so two brokers, or two ingests,
that bring the same message store it once.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple

import zmq

from dynlog.adapters.dynamo_published import PublisherSequences, published_items
from dynlog.adapters.reach import Reach
from dynlog.adapters.sources import ZmqSource
from dynlog.adapters.zmq_wait import BURST, connection_changes, harden, monitor, receive, wait_readable
from dynlog.errors import ConfigurationError
from dynlog.ingest_items import Item, Refused

__all__ = ["PublisherSequences", "dynamo_items", "message_items"]

HEARTBEAT_S = 5.0
RECEIVE_HWM = 1 << 14
_U64 = struct.Struct(">Q")


class _Link(NamedTuple):
    """One source: its socket, what tells of its connections, and what there is to say about those."""

    name: str
    subscriber: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    reach: Reach

    @classmethod
    def to(cls, context: zmq.Context[zmq.Socket[bytes]], source: ZmqSource, heartbeat_s: float) -> _Link:
        """A new one, which connects in the background."""
        subscriber: zmq.Socket[bytes] = context.socket(zmq.SUB)
        harden(subscriber, heartbeat_s=heartbeat_s, receive_hwm=RECEIVE_HWM)
        subscriber.setsockopt(zmq.SUBSCRIBE, source.topic.encode())
        link = cls(str(source), subscriber, monitor(subscriber), Reach(source))
        subscriber.connect(source.connect_to)
        return link


async def dynamo_items(sources: Sequence[ZmqSource], *, heartbeat_s: float = HEARTBEAT_S) -> AsyncGenerator[Item, None]:
    """The events that the publishers (or brokers) at these addresses send, until it is closed.

    Raises ConfigurationError for options that mean nothing here: worker ids come in the events.
    """
    for source in sources:
        if source.replay is not None or source.worker_id is not None or source.dp_rank:
            raise ConfigurationError(
                f"source {source}: Dynamo's event plane knows topic= only; workers and ranks come in its events"
            )
    sequences = PublisherSequences()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        links = [_Link.to(context, source, heartbeat_s) for source in sources]
        for link in links:
            yield link.reach.waiting()
        while True:
            busy = False
            for link in links:
                for connected in connection_changes(link.monitor):
                    if (notice := link.reach.changed(connected=connected)) is not None:
                        yield notice
                for _ in range(BURST):
                    frames = receive(link.subscriber)
                    if frames is None:
                        break
                    busy = True
                    for item in message_items(link.name, frames, sequences):
                        yield item
            for unreached in await asyncio.gather(*[link.reach.overdue() for link in links if link.reach.left <= 0]):
                if unreached is not None:
                    yield unreached
            if busy:
                await asyncio.sleep(0)
                continue
            sockets = [socket for link in links for socket in (link.subscriber, link.monitor)]
            left = min(link.reach.left for link in links)
            await wait_readable(sockets, None if left == math.inf else max(left, 0.0))
    finally:
        context.destroy(linger=0)


def message_items(source: str, frames: Sequence[bytes], sequences: PublisherSequences) -> Iterator[Item]:
    """One message as items: a record for each worker in it."""
    if len(frames) != 4 or len(frames[1]) != 8 or len(frames[2]) != 8 or frames[2][0] & 0x80:
        reason = (
            f"a message of frames {[len(frame) for frame in frames]}: [topic, publisher, sequence, frame] is needed"
        )
        yield Refused(source, "live", reason, b"".join(frames), None)
        return
    (publisher,), (sequence,) = _U64.unpack(frames[1]), _U64.unpack(frames[2])
    yield from published_items(source, publisher, sequence, frames[3], sequences)
