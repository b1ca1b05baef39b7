"""Dynamo's KV events on NATS as items for the ingest: core subjects of newer releases, and the stream of older ones.

Core NATS has no replay: what was lost is lost, which is said and counted.  A server that goes away is waited for, and
named once it was away for long.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from dynlog.adapters.dynamo_envelope import decode_frame
from dynlog.adapters.dynamo_nats_source import NatsSource
from dynlog.adapters.dynamo_nats_stream import EventStream, follow_stream
from dynlog.adapters.dynamo_published import PublisherSequences, published_items
from dynlog.adapters.nats.access import NatsServer, open_nats
from dynlog.adapters.nats.failures import why_away
from dynlog.adapters.reach import Reach
from dynlog.errors import MalformedEvent, SourceUnavailable
from dynlog.ingest_items import Item, Refused
from dynlog.timing import Backoff

WAITING_ITEMS = 256
"""Handed over and not taken yet; the connection's own buffer is behind that."""
PENDING_BYTES = 32 << 20
"""Of core messages so much waits at most; what comes then is lost, and told as a gap."""
_AGAIN = Backoff(first=0.1, most=2.0)


async def nats_items(sources: Sequence[NatsSource]) -> AsyncGenerator[Item, None]:
    """The events of these sources, until it is closed.

    Raises SourceRefused (login, permission), ConfigurationError, MissingDependency.
    """
    queue: asyncio.Queue[Item | Exception] = asyncio.Queue(WAITING_ITEMS)
    sequences = PublisherSequences()
    tasks = [asyncio.create_task(_handed_on(source, queue, sequences), name=f"dynlog {source}") for source in sources]
    try:
        while True:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _handed_on(
    source: NatsSource, queue: asyncio.Queue[Item | Exception], sequences: PublisherSequences
) -> None:  # fmt: skip
    """Everything of one source, whatever becomes of its server."""
    reach = Reach(source)
    await queue.put(reach.waiting())
    pauses = iter(_AGAIN)
    try:
        while True:
            try:
                async with open_nats(source.access) as server:
                    pauses = iter(_AGAIN)
                    await _connected(source, server, reach, queue, sequences)
            except* SourceUnavailable as errors:
                for notice in (reach.changed(connected=False), await reach.overdue(str(_first(errors)))):
                    if notice is not None:
                        await queue.put(notice)
                await asyncio.sleep(next(pauses))
    except* Exception as errors:
        await queue.put(_first(errors))


async def _connected(
    source: NatsSource,
    server: NatsServer,
    reach: Reach,
    queue: asyncio.Queue[Item | Exception],
    sequences: PublisherSequences,
) -> None:
    async def came(message: Any) -> None:
        for item in _published(str(source), message.data, sequences):
            await queue.put(item)

    for subject in source.subjects:
        await server.client.listen(subject, came, PENDING_BYTES)
    if (notice := reach.changed(connected=True)) is not None:
        await queue.put(notice)
    async with asyncio.TaskGroup() as group:
        group.create_task(_watched(server, reach, queue), name=f"dynlog reach {source}")
        if source.stream is not None:
            stream = EventStream(server, str(source), source.stream, source.consumer, required=source.required)
            group.create_task(follow_stream(stream, queue.put), name=f"dynlog stream {source}")


async def _watched(server: NatsServer, reach: Reach, queue: asyncio.Queue[Item | Exception]) -> None:
    """Says what becomes of the connection; raises why none will come any more."""
    while True:
        await server.client.gone.wait()
        if (notice := reach.changed(connected=False)) is not None:
            await queue.put(notice)
        while not server.client.there.is_set():
            try:
                async with asyncio.timeout(None if reach.left == math.inf else max(reach.left, 0.0)):
                    await server.client.there.wait()
            except TimeoutError:
                trouble = server.client.last_trouble
                if (overdue := await reach.overdue(None if trouble is None else why_away(trouble))) is not None:
                    await queue.put(overdue)
        if server.client.ended is not None:
            raise server.client.ended
        if (notice := reach.changed(connected=True)) is not None:
            await queue.put(notice)


def _published(source: str, data: bytes, sequences: PublisherSequences) -> list[Item]:
    """The items of one core message."""
    try:
        envelope = decode_frame(data)
    except MalformedEvent as error:
        return [Refused(source, "live", str(error), data, None)]
    return list(published_items(source, envelope.publisher_id, envelope.sequence, data, sequences))


def _first(errors: BaseExceptionGroup[Any]) -> Exception:
    """The first error in groups of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
