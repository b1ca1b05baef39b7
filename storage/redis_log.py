"""``redis://`` and ``rediss://``: the log on one Redis server (6.2 or newer), for any number of processes and hosts.

``redis://[user:password@]host:port/db?prefix=dynlog``; everything lies under the prefix.  What an acknowledged append
survives is what the server's live settings say: `disk` with ``appendonly yes`` and ``appendfsync always``, `process`
with any other ``appendfsync``, `memory` without ``appendonly``.  A server that comes back having lost its tail is
noticed: positions that saw what is lost raise LogDiverged for ever (see `dynlog.storage.redis.append_lua`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from dynlog.batch import Batch, Position
from dynlog.errors import Closed, ConfigurationError, DynlogError
from dynlog.log import DEFAULT_READ_BYTES, DEFAULT_TIMEOUT_S, Log
from dynlog.record import Record
from dynlog.storage.redis.appends import Appends
from dynlog.storage.redis.bell import Bell
from dynlog.storage.redis.care import Care
from dynlog.storage.redis.client import Client
from dynlog.storage.redis.groups import Groups
from dynlog.storage.redis.holders import Holders
from dynlog.storage.redis.options import settings_of
from dynlog.storage.redis.partitions import Partitions
from dynlog.storage.redis.reading import Reads
from dynlog.storage.redis.topics import Topics
from dynlog.tasks import ended
from dynlog.timing import Clock, Deadline
from dynlog.topics import (
    Appended,
    Capabilities,
    Damage,
    Durability,
    DurabilityLevel,
    GroupState,
    Holder,
    HolderState,
    LogEvent,
    PartitionState,
    Retention,
    Topic,
    Truncation,
)
from dynlog.url import Url, copy_command

OPEN_TIMEOUT_S = 30.0
GRACE_S = 3.0
"""How long `close` lets appends go on that are under way."""
RETENTION_EVERY_MS = 5_000
REFRESH_EVERY_MS = 30_000
"""How often, while appending, the server is asked whether its settings still promise the same."""
CARE_TIMEOUT_S = 60.0


async def open_url(url: Url, clock: Clock) -> Log:
    """Opens the log, making it if there is none; waits for a server that is loading its data.

    Raises ConfigurationError for what only the user can change, LogUnavailable for a server that cannot be reached.
    """
    client = Client(settings_of(url), clock)
    log = RedisLog(str(url), client, clock)
    try:
        await client.open(Deadline(OPEN_TIMEOUT_S))
        log.start()
    except BaseException:
        await log.close()
        raise
    return log


class RedisLog(Log):
    """One handle on a log; two connections for calls, a third once a read waits."""

    def __init__(self, url: str, client: Client, clock: Clock) -> None:
        self._url = url
        self._client = client
        self._clock = clock
        self._topics = Topics(client)
        self._partitions = Partitions(client, self._topics)
        self._appends = Appends(client, self._topics)
        self._holders = Holders(client, self._topics, self._partitions)
        self._groups = Groups(client, self._topics, self._partitions)
        self._care = Care(client, self._topics, self._holders)
        self._bell = Bell(client.link)
        self._reads = Reads(client, self._topics, self._bell, self._appends.saw)
        self._retained_ms: dict[str, int] = {}
        self._refreshed_ms = clock.time_ms()
        self._retaining: asyncio.Task[None] | None = None
        self._appending = 0
        self._idle = asyncio.Event()
        self._closed = False

    def start(self) -> None:
        """Begins to listen for news."""
        self._bell.start()

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._client.identity

    @property
    def capabilities(self) -> Capabilities:
        facts = self._client.facts
        return Capabilities(
            engine=self._url.partition(":")[0],
            durability=facts.durability if facts is not None else Durability(DurabilityLevel.MEMORY),
            checks_marks=True,
            fences_at_registration=False,
            compare_and_append=True,
            reads_latest=True,
            many_processes=True,
            single_host=False,
            max_batch_bytes=self._client.settings.max_batch_bytes,
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        async with AsyncExitStack() as rest:  # from the last to the first, whatever becomes of the others
            rest.push_async_callback(self._client.close)
            rest.push_async_callback(self._bell.close)
            rest.push_async_callback(self._stop_retaining)
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S if self._client.appends.trouble is None else 0):
                    while self._appending:
                        await self._idle.wait()

    async def _stop_retaining(self) -> None:
        retaining, self._retaining = self._retaining, None
        if retaining is not None:
            retaining.cancel()
            await ended(retaining)

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"the log {self._url} was closed")

    # Topics

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        retention: Retention | None = None,
        labels: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Topic:
        deadline = Deadline(timeout)
        return await self._topics.create(name, partitions, retention or Retention(), labels or {}, exist_ok, deadline)

    async def topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Topic:
        return await self._topics.find(name, Deadline(timeout))

    async def topics(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Topic]:
        return await self._topics.all(Deadline(timeout))

    async def delete_topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await self._topics.delete(name, Deadline(timeout))

    async def label_topic(self, name: str, label: str, value: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        return await self._topics.label(name, label, value, Deadline(timeout))

    # Records

    async def append(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        expect: int | None = None,
        incarnation: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        self._check()
        self._appending += 1
        try:
            appended = await self._appends.append(topic, partition, records, expect, Deadline(timeout), incarnation)
        finally:
            self._appending -= 1
            if self._closed and not self._appending:
                self._idle.set()
        now_ms = self._client.now_ms
        if abs(now_ms - self._retained_ms.setdefault(topic, now_ms - RETENTION_EVERY_MS)) >= RETENTION_EVERY_MS:
            self._retained_ms[topic] = now_ms
            if not self._closed and (self._retaining is None or self._retaining.done()):
                self._retaining = asyncio.create_task(self._retain(topic), name="dynlog-redis-retention")
        return appended

    async def _retain(self, name: str) -> None:
        """Enforces retention unless another handle just did; what goes wrong is tried again a few seconds later."""
        deadline = Deadline(CARE_TIMEOUT_S)
        with suppress(DynlogError):
            if abs(self._client.now_ms - self._refreshed_ms) >= REFRESH_EVERY_MS:
                self._refreshed_ms = self._client.now_ms
                await self._client.refresh()
            topic = await self._topics.known(name, deadline)
            if await self._holders.retention_is_due(topic, RETENTION_EVERY_MS, deadline):
                await self._holders.retain(name, deadline)
                await self._topics.sweep(deadline)

    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        self._check()
        return await self._reads.read(position, max_records, max_bytes, wait)

    async def partitions(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[PartitionState]:
        deadline = Deadline(timeout)
        info = await self._topics.find(topic, deadline)
        bounds = await self._partitions.bounds(info, range(info.partitions), deadline)
        return [bound.state for bound in bounds.values()]

    async def offset_at(
        self, topic: str, partition: int, log_time_ms: int, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        deadline = Deadline(timeout)
        return await self._partitions.offset_at(
            await self._topics.find(topic, deadline), partition, log_time_ms, deadline
        )

    async def register_producer(
        self, producer_id: str, *, after: int | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        return await self._appends.register(producer_id, after, Deadline(timeout))

    # Holders and truncation

    async def hold(
        self, topic: str, holder: Holder, *, incarnation: str | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        await self._holders.hold(topic, holder, Deadline(timeout), incarnation)

    async def release(self, topic: str, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await self._holders.release(topic, name, Deadline(timeout))

    async def holders(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[HolderState]:
        return await self._holders.states(topic, Deadline(timeout))

    async def truncate(
        self,
        topic: str,
        partition: int,
        before: int,
        *,
        force: bool = False,
        incarnation: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Truncation:
        return await self._holders.truncate(topic, partition, before, force, Deadline(timeout), incarnation)

    async def enforce_retention(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Truncation]:
        return await self._holders.retain(topic, Deadline(timeout))

    async def events(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[LogEvent]:
        return await self._holders.events(topic, Deadline(timeout))

    # Consumer groups

    async def open_generation(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        return await self._groups.open_generation(group, topic, positions, Deadline(timeout))

    async def commit(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int],
        *,
        generation: int,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> GroupState:
        return await self._groups.commit(group, topic, positions, generation, Deadline(timeout))

    async def committed(self, group: str, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> GroupState:
        return await self._groups.committed(group, topic, Deadline(timeout))

    # Care

    async def verify(self, topic: str | None = None) -> AsyncIterator[Damage]:
        async for damage in self._care.verify(topic):
            yield damage

    async def quarantine(self, *, accept_loss: bool = False) -> list[Damage]:
        return await self._care.quarantine()

    async def backup(self, path: Path) -> None:
        self._check()
        raise ConfigurationError(
            f"{self._url} is backed up by Redis itself (BGSAVE, a replica, its append-only file), not to {path}; "
            f"'{copy_command(self._url, path)}' makes a log of its own there"
        )
