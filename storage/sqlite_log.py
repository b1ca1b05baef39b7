"""The engine ``sqlite:///path``: a log in one file on this host, for any number of processes.

Durable by fsync, at the disk's own rate; what is stored is checked on every read, and a tail that SQLite would drop in
silence is found by the bell (`dynlog.storage.sqlite.bell`).  Options: ``synchronous=full|normal`` (normal survives a
killed process, not a power loss), ``max_batch_bytes``, ``create=true|false``, ``page_size``, and ``repair=true``, which
opens a log that lost its tail, for `verify` and `quarantine` only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

from dynlog.batch import Batch, Position
from dynlog.errors import Closed, ConfigurationError, DynlogError, TopicNotFound
from dynlog.log import DEFAULT_READ_BYTES, DEFAULT_TIMEOUT_S, Log
from dynlog.record import Record
from dynlog.storage.ledger import check_holder, check_partition_count, gone
from dynlog.storage.sqlite import appends, backup, groups, holders, quarantine, reads, topics, verify
from dynlog.storage.sqlite.care import Care
from dynlog.storage.sqlite.forks import note_closed
from dynlog.storage.sqlite.location import check_location, durability_of, path_of
from dynlog.storage.sqlite.options import Settings, settings_of
from dynlog.storage.sqlite.parts import Parts, open_parts
from dynlog.storage.sqlite.readers import Readers, View, within
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.storage.sqlite.waiters import Waiters
from dynlog.storage.sqlite.writer import Writer
from dynlog.timing import Clock
from dynlog.topics import (
    Appended,
    Capabilities,
    Damage,
    Durability,
    GroupState,
    Holder,
    HolderState,
    LogEvent,
    PartitionState,
    Retention,
    Topic,
    Truncation,
    check_name,
)
from dynlog.url import Url

T = TypeVar("T")


async def open_url(url: Url, clock: Clock) -> Log:
    """Opens or creates the log; see `dynlog.open.open_log`."""
    settings = settings_of(url)
    path = path_of(url)
    filesystem = check_location(path)
    readers = Readers(path, settings)
    opening = readers.aside(lambda: open_parts(path, settings))
    try:
        parts = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(DynlogError):
            (await opening).close()
        await readers.close()
        raise
    except BaseException:
        await readers.close()
        raise
    durability = durability_of(filesystem, settings.synchronous)
    return SqliteLog(url, path, settings, durability, clock, parts, readers)


class SqliteLog(Log):
    """A log in a SQLite database; every promise is in `dynlog.log.Log`."""

    def __init__(
        self,
        url: Url,
        path: Path,
        settings: Settings,
        durability: Durability,
        clock: Clock,
        parts: Parts,
        readers: Readers,
    ) -> None:
        self._url = url
        self._path = path
        self._settings = settings
        self._clock = clock
        self._identity = parts.identity
        self._file = parts.file
        self._process = os.getpid()
        self._bell = parts.bell
        self._readers = readers
        readers.adopt(parts.reader)
        self._waiters = Waiters(path, parts.bell, readers)
        self._writer = Writer(path, parts.writer, parts.bell, self._waiters.committed)
        self._care = Care(path, settings, self._writer, readers, clock)
        self._closing: asyncio.Task[None] | None = None
        self._capabilities = Capabilities(
            engine="sqlite",
            durability=durability,
            checks_marks=True,
            fences_at_registration=True,
            compare_and_append=True,
            reads_latest=True,
            many_processes=True,
            single_host=True,
            max_batch_bytes=settings.max_batch_bytes,
        )

    @property
    def url(self) -> str:
        return str(self._url)

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def close(self) -> None:
        if self._process != os.getpid():
            return  # the parent's threads, which would have to end, are not here
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        async with AsyncExitStack() as rest:  # from the last to the first, whatever becomes of the others
            rest.callback(note_closed, self._file)
            rest.callback(self._bell.close)
            # After these, since only a connection that may write moves the write-ahead log into the database as it
            # closes.
            rest.push_async_callback(self._writer.close)
            rest.push_async_callback(self._readers.close)
            rest.push_async_callback(self._waiters.close)
            await self._care.close()

    def _check_open(self) -> None:
        if self._closing is not None or self._process != os.getpid():
            raise Closed(f"the log {self._url} was closed")

    async def _write(self, work: Callable[[Transaction], T], timeout: float, size: int = 0) -> T:
        self._check_writable()
        return await self._writer.run(work, timeout=timeout, size=size)

    def _check_writable(self) -> None:
        self._check_open()
        if self._settings.repair:
            raise ConfigurationError(f"{self._url} was opened for repair only; open it without repair=true to write")

    async def _read(self, work: Callable[[View], T], timeout: float | None = None) -> T:
        self._check_open()
        return await self._readers.run(work, timeout=timeout)

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
        check_name("topic", name)
        check_partition_count(partitions)
        kept, given, now_ms = retention or Retention(), dict(labels or {}), self._clock.time_ms()
        return await self._write(
            lambda tx: topics.create_topic(tx, name, partitions, kept, given, exist_ok, now_ms), timeout
        )

    async def topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Topic:
        return await self._read(lambda view: topics.public(view.topic(name)), timeout)

    async def topics(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Topic]:
        return await self._read(lambda view: [topics.public(view.topics[n]) for n in sorted(view.topics)], timeout)

    async def delete_topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        async with within(timeout, f"topic {name!r} was deleted"):
            await self._write(lambda tx: topics.drop_topic(tx, name), timeout)
            await self._care.sweep(timeout)

    async def label_topic(self, name: str, label: str, value: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        return await self._write(lambda tx: topics.label_topic(tx, name, label, value), timeout)

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
        self._check_writable()
        new = appends.prepare(topic, partition, records, self._settings.max_batch_bytes, expect, incarnation)
        clock = self._clock
        appended = await self._write(lambda tx: appends.append(tx, new, clock.time_ms()), timeout, len(new.payload))
        self._care.appended(topic)
        return appended

    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        def work(view: View) -> tuple[int, Batch]:
            return view.topic(position.topic).id, reads.read(view, position, max_records, max_bytes)

        topic, batch = await self._read(work)
        if wait <= 0 or len(batch) or batch.next_offset > position.offset:
            return batch
        try:
            async with asyncio.timeout(wait):
                while not len(batch) and batch.next_offset == position.offset:
                    waiter = self._waiters.enter(topic, position.partition, position.offset)
                    try:
                        _, batch = await self._read(work)
                        if not len(batch) and batch.next_offset == position.offset:
                            await waiter.woken
                    finally:
                        self._waiters.leave(waiter)
        except TimeoutError:
            return batch
        except TopicNotFound:
            raise gone(position.topic, position.partition, position.incarnation) from None
        return batch

    async def partitions(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[PartitionState]:
        return await self._read(lambda view: reads.partition_states(view, topic), timeout)

    async def offset_at(
        self, topic: str, partition: int, log_time_ms: int, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        return await self._read(lambda view: reads.offset_at(view, topic, partition, log_time_ms), timeout)

    async def register_producer(
        self, producer_id: str, *, after: int | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        check_name("producer", producer_id)
        return await self._write(lambda tx: topics.register_producer(tx, producer_id, after), timeout)

    # Holders and truncation

    async def hold(
        self, topic: str, holder: Holder, *, incarnation: str | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        check_holder(holder)
        now_ms = self._clock.time_ms()
        await self._write(lambda tx: holders.hold(tx, topic, holder, now_ms, incarnation), timeout)

    async def release(self, topic: str, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        await self._write(lambda tx: holders.release(tx, topic, name), timeout)

    async def holders(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[HolderState]:
        now_ms = self._clock.time_ms()
        return await self._read(lambda view: holders.list_holders(view, topic, now_ms), timeout)

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
        self._check_writable()
        async with within(timeout, f"topic {topic!r} was truncated"):
            return await self._care.truncate(topic, partition, before, force, timeout, incarnation)

    async def enforce_retention(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Truncation]:
        self._check_writable()
        async with within(timeout, f"topic {topic!r} was truncated"):
            return await self._care.retain(topic, timeout)

    async def events(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[LogEvent]:
        return await self._read(lambda view: holders.list_events(view, topic), timeout)

    # Consumer groups

    async def open_generation(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        check_name("group", group)
        now_ms = self._clock.time_ms()
        return await self._write(lambda tx: groups.open_generation(tx, group, topic, positions, now_ms), timeout)

    async def commit(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int],
        *,
        generation: int,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> GroupState:
        now_ms = self._clock.time_ms()
        return await self._write(lambda tx: groups.commit(tx, group, topic, positions, generation, now_ms), timeout)

    async def committed(self, group: str, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> GroupState:
        return await self._read(lambda view: groups.committed(view, group, topic), timeout)

    # Care

    def verify(self, topic: str | None = None) -> AsyncIterator[Damage]:
        self._check_open()
        return verify.verify(self._readers, self._path, self._settings, self._identity, topic)

    async def quarantine(self, *, accept_loss: bool = False) -> list[Damage]:
        self._check_open()
        repair = quarantine.Repair(self._path, self._settings, self._identity, accept_loss, self._clock.time_ms())
        return await self._readers.call(lambda _: quarantine.quarantine(repair))

    async def backup(self, path: Path) -> None:
        self._check_open()
        await self._readers.call(lambda db: backup.backup(db, path.absolute(), self._identity))
