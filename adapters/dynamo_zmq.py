"""Dynamo's ZMQ event plane as items for the ingest: each (publisher, sequence) once, gaps counted.

Multipart ``[topic, publisher_id u64 BE, sequence u64 BE, frame]``.  The plane has no replay: what was lost is lost,
which is said and counted.  Marks are (``dynamo-<publisher>-<worker>``, 0, sequence), so two brokers, or two ingests,
that bring the same message store it once.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple

import zmq

from dynlog.adapters.dynamo_envelope import decode_frame, decode_payload
from dynlog.adapters.event_groups import event_groups
from dynlog.adapters.reach import Reach
from dynlog.adapters.sources import ZmqSource
from dynlog.adapters.zmq_wait import BURST, connection_changes, harden, monitor, receive, wait_readable
from dynlog.errors import ConfigurationError, MalformedEvent
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.kvevents import KvEvent, encode_events
from dynlog.record import Mark

HEARTBEAT_S = 5.0
RECEIVE_HWM = 1 << 14
MAX_PUBLISHERS = 1 << 16
"""Publishers whose last sequence is remembered; the longest silent one is forgotten first."""
_U64 = struct.Struct(">Q")


class PublisherSequences:
    """What came last of each publisher; (publisher, sequence) names a message wherever it comes from."""

    def __init__(self) -> None:
        self._last: OrderedDict[int, int] = OrderedDict()

    def judge(self, publisher: int, sequence: int) -> tuple[bool, int]:
        """Whether the message is new, and how many before it are missing; a first message misses all before it."""
        last = self._last.get(publisher, -1)
        if sequence <= last:
            return False, 0
        self._last[publisher] = sequence
        self._last.move_to_end(publisher)
        if len(self._last) > MAX_PUBLISHERS:
            self._last.popitem(last=False)
        return True, sequence - last - 1


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
    new, missing = sequences.judge(publisher, sequence)
    place = f"publisher {publisher} sequence {sequence}"
    if not new:
        yield Noticed(NoticeKind.DUPLICATE, source, f"{place} came again")
        return
    if missing:
        yield Noticed(NoticeKind.GAP, source, f"{place}: {missing} messages before it never came", missing)
    try:
        envelope = decode_frame(frames[3])
        if (envelope.publisher_id, envelope.sequence) != (publisher, sequence):
            raise MalformedEvent(
                f"the envelope says publisher {envelope.publisher_id} sequence {envelope.sequence}, the message {place}"
            )
        events = decode_payload(envelope.payload)
    except MalformedEvent as error:
        yield Refused(source, place, str(error), frames[3], Mark(f"dynamo-{publisher:x}", 0, sequence))
        return
    by_worker: dict[int, list[KvEvent]] = {}
    for event in events:
        by_worker.setdefault(event.worker_id, []).append(event)
    for worker_id, of_worker in by_worker.items():
        for part, group in enumerate(event_groups(of_worker)):
            mark = Mark(f"dynamo-{publisher:x}-{worker_id}" + (f"+{part}" if part else ""), 0, sequence)
            blocks = sum(len(event.block_hashes) for event in group) // 8
            yield Taken(encode_events(group, mark=mark, timestamp_ms=envelope.published_ms), len(group), blocks)
