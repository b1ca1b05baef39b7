"""The two sides of a mirror, looked at from outside: through nats-py and `Log.read`, not through the mirror's eyes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.batch import StoredRecord
from dynlog.dedupe import DedupeTable
from dynlog.log import Log
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.running import mirror_out, mirror_stream
from dynlog.record import Record

PATIENCE_S = 30.0
SHORTEST_WINDOW_S = 0.1
"""The least that a NATS server takes for how long it remembers message ids."""


@dataclass(frozen=True, slots=True)
class OldSide:
    """A stream and a client of the NATS side."""

    url: str
    name: str
    client: Client
    js: JetStreamContext

    @property
    def access(self) -> NatsAccess:
        """For the mirror."""
        return NatsAccess(self.url)

    async def publish(self, word: str, *bodies: bytes, headers: dict[str, str] | None = None) -> None:
        """To ``<name>.<word>``, acknowledged by the stream."""
        for body in bodies:
            await self.js.publish(f"{self.name}.{word}", body, headers=headers)

    async def messages(self, stream: str | None = None) -> list[Any]:
        """All that the stream holds, in order."""
        name = stream or self.name
        state = (await self.js.stream_info(name)).state
        found = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            with suppress(NotFoundError):
                found.append(await self.js.get_msg(name, sequence))
        return found

    async def bodies(self, stream: str | None = None) -> list[bytes]:
        """The bodies of all that the stream holds."""
        return [message.data or b"" for message in await self.messages(stream)]


@asynccontextmanager
async def old_side(url: str, name: str, **settings: Any) -> AsyncIterator[OldSide]:
    """A client and a stream that is deleted in the end."""
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0, error_cb=_expected)
    js = client.jetstream(timeout=PATIENCE_S)
    try:
        await js.add_stream(StreamConfig(name=name, subjects=[f"{name}.>"], **settings))
        yield OldSide(url, name, client, js)
        with suppress(NotFoundError):
            await js.delete_stream(name)
    finally:
        await client.close()


async def _expected(error: Exception) -> None:
    """Tests break connections on purpose; nats-py would log every attempt to come back."""


async def records(log: Log, topic: str, partition: int = 0) -> list[StoredRecord]:
    """All records of a partition, each once."""
    position = await log.position(topic, partition)
    found: list[StoredRecord] = []
    table = None if log.capabilities.checks_marks else DedupeTable()
    while True:
        batch = await log.read(position)
        found += batch if table is None else table.filter(batch)
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            return found


async def bodies(log: Log, topic: str, partition: int = 0) -> list[bytes]:
    """Their bodies."""
    return [b"".join(stored.record.parts) for stored in await records(log, topic, partition)]


async def append(log: Log, topic: str, *bodies: bytes, key: bytes | None = None) -> None:
    """As a component of the new side does."""
    await log.append(topic, 0, [Record(parts=(body,), key=key) for body in bodies])


class Told:
    """What a mirror told last."""

    def __init__(self) -> None:
        self.last: Standing | None = None
        self._news = asyncio.Event()

    def __call__(self, standing: Standing) -> None:
        self.last = standing
        self._news.set()

    @property
    def counts(self) -> dict[str, int]:
        """The counts that it told."""
        assert self.last is not None
        return self.last.counts.as_dict()

    async def until(self, wanted: Callable[[Standing], bool]) -> None:
        """Returns once it told something of that kind."""
        async with asyncio.timeout(PATIENCE_S):
            while self.last is None or not wanted(self.last):
                self._news.clear()
                await self._news.wait()


async def once_in(old: OldSide, log: Log, topic: str, **more: Any) -> dict[str, int]:
    """One pass inwards; gives the counts."""
    told = Told()
    async with open_nats(old.access) as server:
        await mirror_stream(server, log, old.name, topic, told, once=True, patience_s=5.0, **more)
    return told.counts


async def once_out(old: OldSide, log: Log, topic: str, *subjects: str, **more: Any) -> dict[str, int]:
    """One pass outwards; gives the counts."""
    told = Told()
    async with open_nats(old.access) as server:
        await mirror_out(server, old.access, log, topic, subjects, told, once=True, patience_s=5.0, **more)
    return told.counts if told.last is not None else {}


@asynccontextmanager
async def running(work: Callable[[NatsServer], Coroutine[Any, Any, Any]], access: NatsAccess) -> AsyncIterator[
    asyncio.Task[Any]
]:  # fmt: skip
    """A mirror that runs for as long as the block does."""
    async with open_nats(access) as server:
        task = asyncio.create_task(work(server))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
