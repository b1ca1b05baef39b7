"""The stream in which Dynamo 0.7 to 0.9 keeps a component's KV events, from its beginning and then as it grows.

It is read by sequence, and no consumer is made, unless one is named: then that durable pull consumer's position counts,
and an event is acknowledged there once it is durable here.  A mark names the stream as it was made and the sequence in
it, so whatever comes again, by either way, is stored once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import nats.errors
import xxhash
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import Error as JetStreamError

from dynlog.adapters.dynamo_json import decode_line
from dynlog.adapters.event_groups import event_groups
from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo, StreamMessage, list_consumers, read_stream, stream_info
from dynlog.errors import MalformedEvent, SourceChanged, SourceError, SourceNotFound, SourceRefused, SourceUnavailable
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.kvevents import encode_events
from dynlog.record import Mark

POLL_S = 1.0
FETCH = 256
WAKE_BYTES = 4 << 20
Stored = Callable[[int, int], None]


def event_items(
    source: str, producer: str, sequence: int, time_ns: int, data: bytes, on_stored: Stored | None = None
) -> Iterator[Item]:
    """One RouterEvent of a stream as items; ``on_stored`` goes with the last of them."""
    try:
        event = decode_line(data)
    except MalformedEvent as error:
        yield Refused(source, f"sequence {sequence}", str(error), data, Mark(producer, 0, sequence), 1, on_stored)
        return
    groups = event_groups([event])
    for part, group in enumerate(groups):
        mark = Mark(producer + (f"+{part}" if part else ""), 0, sequence)
        record = encode_events(group, mark=mark, timestamp_ms=time_ns // 1_000_000)
        blocks = sum(len(each.block_hashes) for each in group) // 8
        last = part == len(groups) - 1
        yield Taken(record, int(last), blocks, on_stored if last else None)


class EventStream:
    """Follows one stream over restarts of its server, and over its deletion; ``items`` may be asked for again."""

    def __init__(self, server: NatsServer, source: str, name: str, consumer: str | None, *, required: bool) -> None:
        self._server, self._source, self._name = server, source, name
        self._consumer, self._required = consumer, required
        self._at = 0
        self._created = ""
        self._producer = ""
        self._missed = False
        self._grown = asyncio.Event()
        self._acks: deque[Any] = deque()

    async def items(self) -> AsyncGenerator[Item, None]:
        """Its events, without end; raises SourceRefused."""
        heard: str | None = None
        while True:
            self._grown.clear()
            try:
                info = await stream_info(self._server, self._name)
                for notice in self._begin(info):
                    yield notice
                if heard is None and info.subjects and self._consumer is None:
                    heard = info.subjects[0]
                    with suppress(SourceRefused):  # it is looked at every second anyway
                        await self._server.client.listen(heard, self._came, WAKE_BYTES)
                if self._consumer is not None:
                    async with aclosing(self._consumed(info, self._consumer)) as items:
                        async for item in items:
                            yield item
                elif info.last_seq >= self._at:
                    async with aclosing(self._read(info, info.last_seq)) as items:
                        async for item in items:
                            yield item
                    continue
            except (SourceNotFound, SourceChanged) as error:
                if self._required and not self._missed:
                    self._missed = True
                    yield Noticed(NoticeKind.SOURCES, self._source, f"{error}; it is waited for")
            except (SourceUnavailable, JetStreamError, nats.errors.Error) as error:
                if not isinstance(error, SourceUnavailable):
                    yield Noticed(NoticeKind.SOURCES, self._source, f"consumer {self._consumer}: {error}")
                await asyncio.sleep(POLL_S)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._grown.wait()
            except TimeoutError:
                pass

    async def _came(self, message: Any) -> None:
        """What is published into the stream is heard here as well, which says that there is something to read."""
        self._grown.set()

    def _begin(self, info: StreamInfo) -> Iterator[Noticed]:
        self._missed = False
        if info.created == self._created:
            return
        if self._created:
            yield Noticed(
                NoticeKind.SOURCES, self._source, f"stream {info.name} was made anew, and is read from its start"
            )
        self._created = info.created
        self._producer = f"nats-{xxhash.xxh3_64_hexdigest(f'{info.name}/{info.created}'.encode())}"
        self._at = max(info.first_seq, 1)

    async def _read(self, info: StreamInfo, last: int) -> AsyncGenerator[Item, None]:
        """Everything from where it stands to ``last``."""
        async with aclosing(read_stream(self._server, info, first=self._at, last=last)) as messages:
            async for message in messages:
                for item in self._taken(message):
                    yield item
        if self._at <= last:
            yield self._gap(last + 1 - self._at)
            self._at = last + 1

    def _taken(self, message: StreamMessage) -> Iterator[Item]:
        if message.sequence > self._at:
            yield self._gap(message.sequence - self._at)
        self._at = message.sequence + 1
        yield from event_items(self._source, self._producer, message.sequence, message.time_ns, message.data)

    def _gap(self, missing: int) -> Noticed:
        detail = f"stream {self._name}: {missing} events from sequence {self._at} on were deleted before they were read"
        return Noticed(NoticeKind.GAP, self._source, detail, missing)

    async def _consumed(self, info: StreamInfo, name: str) -> AsyncGenerator[Item, None]:
        """What the durable consumer is given, in order: what it was given before and never acknowledged comes first."""
        stands = [each for each in await list_consumers(self._server, info.name) if each.name == name]
        js = self._server.client.jetstream()
        if not stands:
            await js.add_consumer(info.name, ConsumerConfig(durable_name=name, ack_policy=AckPolicy.EXPLICIT))
        else:
            self._at = max(self._at, stands[0].ack_floor + 1)
            async for item in self._read(info, stands[0].delivered):
                yield item
        pulled = await js.pull_subscribe_bind(name, info.name)
        try:
            while True:
                try:
                    came = await pulled.fetch(FETCH, timeout=POLL_S)
                except (nats.errors.TimeoutError, TimeoutError):
                    came = []
                    await stream_info(self._server, info.name)
                for message in came:
                    sequence, time = message.metadata.sequence.stream, message.metadata.timestamp
                    if sequence > self._at:
                        async for item in self._read(info, sequence - 1):
                            yield item
                    self._at = max(self._at, sequence + 1)
                    stored = partial(self._stored, message)
                    for item in event_items(
                        self._source, self._producer, sequence, round(time.timestamp() * 1e9), message.data, stored
                    ):
                        yield item
                await self._acknowledge()
        finally:
            await pulled.unsubscribe()

    def _stored(self, message: Any, partition: int, offset: int) -> None:
        self._acks.append(message)

    async def _acknowledge(self) -> None:
        while self._acks:
            await self._acks.popleft().ack()


Put = Callable[[Item], Awaitable[None]]


async def follow_stream(stream: EventStream, put: Put) -> None:
    """Hands on its items until it is cancelled; raises SourceError for what will not pass by itself."""
    async with aclosing(stream.items()) as items:
        async for item in items:
            await put(item)
    raise SourceError("a stream has no end")
