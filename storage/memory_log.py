"""``memory://``: the log contract in plain data, gone with the process; the reference for every other engine.

``memory://`` is a log of its own; ``memory://name`` is one log for every handle of this process, in whatever thread and
event loop, and lives while at least one handle is open.  Options: ``checks_marks=false`` leaves marks to the reader's
dedupe table, ``max_batch_bytes``, and ``max_bytes`` for the whole log (default 1 GiB; beyond it appends raise LogFull).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from dynlog.batch import Batch, Position
from dynlog.codec import MAX_BATCH_BYTES
from dynlog.errors import Closed, ConfigurationError, LogDiverged, OffsetConflict, TopicNotFound
from dynlog.log import DEFAULT_READ_BYTES, DEFAULT_TIMEOUT_S, Log
from dynlog.record import Record
from dynlog.storage.ledger import beyond_end, check_expect, other_incarnation, truncated
from dynlog.storage.memory.partition import Partition, Waiter, build_batch
from dynlog.storage.memory.shared import Shared
from dynlog.storage.memory.state import MemoryState, Settings, check_settings
from dynlog.storage.memory.topic import TopicData, by_name
from dynlog.storage.repeats import is_repeat
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
    check_name,
)
from dynlog.url import Url, positive, read_options

DEFAULT_MAX_BYTES = 1 << 30

_SHARED: Shared[MemoryState] = Shared()


async def open_url(url: Url, clock: Clock) -> Log:
    """Opens ``memory://`` or ``memory://name``; raises ConfigurationError for anything else in the URL."""
    if url.path.strip("/") or url.port or url.user:
        raise ConfigurationError(f"{url}: memory:// takes at most a name, as in memory://name")
    asked = read_options(url, {"checks_marks": _truth, "max_batch_bytes": positive, "max_bytes": positive})
    defaults = {"checks_marks": True, "max_batch_bytes": MAX_BATCH_BYTES, "max_bytes": DEFAULT_MAX_BYTES}
    settings = Settings(**{**defaults, **asked})
    # A log without a name is one that nobody else can name.
    name = url.host or f"/{uuid.uuid4().hex}"
    state = _SHARED.enter(
        name, lambda: MemoryState(settings), lambda found: check_settings(name, found.settings, asked)
    )
    return MemoryLog(str(url), name, state, clock)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text == "true"


class MemoryLog(Log):
    """One handle on a memory log."""

    def __init__(self, url: str, name: str, state: MemoryState, clock: Clock) -> None:
        self._url = url
        self._name = name
        self._state = state
        self._clock = clock
        self._waiters: set[Waiter] = set()
        self._closed = False

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._state.identity

    @property
    def capabilities(self) -> Capabilities:
        settings = self._state.settings
        return Capabilities(
            engine="memory",
            durability=Durability(DurabilityLevel.MEMORY),
            checks_marks=settings.checks_marks,
            fences_at_registration=settings.checks_marks,
            compare_and_append=True,
            reads_latest=True,
            many_processes=False,
            single_host=True,
            max_batch_bytes=settings.max_batch_bytes,
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for waiter in self._waiters:
            waiter.wake()
        _SHARED.leave(self._name)

    @contextmanager
    def _locked(self) -> Iterator[MemoryState]:
        """The state, for as long as a step takes that does not block."""
        if self._closed:
            raise Closed(f"the log {self._url} was closed")
        with self._state.lock:
            yield self._state

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[MemoryState]:
        """As `_locked`, after other tasks had their turn: a loop of calls must not keep the event loop to itself."""
        await asyncio.sleep(0)
        with self._locked() as state:
            yield state

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
        async with self._turn() as state:
            return state.create_topic(name, partitions, retention, labels, exist_ok, self._clock.time_ms())

    async def topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Topic:
        async with self._turn() as state:
            return state.topic(name).info

    async def topics(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Topic]:
        async with self._turn() as state:
            return by_name(state.topics.values())

    async def delete_topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        async with self._turn() as state:
            state.delete_topic(name)

    async def label_topic(self, name: str, label: str, value: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        async with self._turn() as state:
            return state.topic(name).label(label, value)

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
        check_expect(expect)
        deadline = Deadline(timeout)
        async with self._turn() as state:
            try:
                return state.append(topic, partition, records, self._clock.time_ms(), expect, incarnation)
            except OffsetConflict as error:
                if expect is None or state.settings.checks_marks:
                    raise
                position, conflict = Position(topic, state.topic(topic).info.incarnation, partition, expect), error
        if not await is_repeat(lambda at, most: self.read(at, max_records=most), position, records, deadline):
            raise conflict
        offsets = tuple(range(expect, expect + len(records)))
        return Appended(partition, offsets, conflict.end, self._clock.time_ms(), len(records))

    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        await asyncio.sleep(0)  # as in _turn
        loop = asyncio.get_running_loop()
        until, waited = loop.time() + wait, False
        while True:
            with self._locked() as state:
                partition = _partition_at(state, position, waited)
                found, end = partition.find(position.offset, max_records, max_bytes), partition.end
                if found or loop.time() >= until:
                    break
                # Registered under the same lock under which nothing was found, so no append is missed.
                waiter = Waiter(loop, asyncio.Event())
                partition.waiters.add(waiter)
            await self._wait(partition, waiter, until)
            waited = True
        return build_batch(*position, end, found, max_records)

    async def _wait(self, partition: Partition, waiter: Waiter, until: float) -> None:
        """Until it is woken or the time is over."""
        self._waiters.add(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await waiter.event.wait()
        finally:
            self._waiters.discard(waiter)
            with self._state.lock:
                partition.waiters.discard(waiter)

    async def partitions(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[PartitionState]:
        async with self._turn() as state:
            return [partition.state() for partition in state.topic(topic).partitions]

    async def offset_at(
        self, topic: str, partition: int, log_time_ms: int, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        async with self._turn() as state:
            return state.topic(topic).partition(partition).offset_at(log_time_ms)

    async def register_producer(
        self, producer_id: str, *, after: int | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        async with self._turn() as state:
            return state.register_producer(producer_id, after)

    # Holders and truncation

    async def hold(
        self, topic: str, holder: Holder, *, incarnation: str | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        async with self._turn() as state:
            state.topic(topic, incarnation).hold(holder, self._clock.time_ms())

    async def release(self, topic: str, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        async with self._turn() as state:
            if topic in state.topics:
                state.topics[topic].release(name)

    async def holders(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[HolderState]:
        async with self._turn() as state:
            return state.topic(topic).holders(self._clock.time_ms())

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
        async with self._turn() as state:
            data = state.topic(topic, incarnation)
            return data.truncate(partition, before, self._clock.time_ms(), force=force)

    async def enforce_retention(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Truncation]:
        async with self._turn() as state:
            return state.topic(topic).enforce_retention(self._clock.time_ms())

    async def events(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[LogEvent]:
        async with self._turn() as state:
            return list(state.topics[topic].events) if topic in state.topics else []

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
        async with self._turn() as state:
            return state.topic(topic).open_generation(group, positions, self._clock.time_ms())

    async def commit(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int],
        *,
        generation: int,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> GroupState:
        async with self._turn() as state:
            return state.topic(topic).commit(group, positions, generation, self._clock.time_ms())

    async def committed(self, group: str, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> GroupState:
        async with self._turn() as state:
            return state.topic(topic).committed(group)

    # Care

    async def verify(self, topic: str | None = None) -> AsyncIterator[Damage]:
        async with self._turn() as state:
            topics: list[TopicData] = list(state.topics.values()) if topic is None else [state.topic(topic)]
            damaged = [damage for data in topics for damage in data.damages()]
        for damage in damaged:
            yield damage

    async def quarantine(self, *, accept_loss: bool = False) -> list[Damage]:
        async with self._turn():
            return []

    async def backup(self, path: Path) -> None:
        async with self._turn():
            raise ConfigurationError(
                f"{self._url} keeps nothing on disk, so {path} would open as no log; copy its topics into a "
                "sqlite:// log"
            )


def _partition_at(state: MemoryState, position: Position, waited: bool) -> Partition:
    """The partition, if the position can be read in it now or later."""
    name, incarnation, number, offset = position
    try:
        topic = state.topic(name)
    except TopicNotFound:
        if waited:
            raise LogDiverged("the topic was deleted while the read waited", topic=name, partition=number) from None
        raise
    partition = topic.partition(number)
    if topic.info.incarnation != incarnation:
        raise other_incarnation(name, number, incarnation, topic.info.incarnation)
    if offset < partition.earliest:
        raise truncated(name, number, offset, partition.earliest)
    if offset > partition.end:
        raise beyond_end(name, number, offset, partition.end)
    return partition
