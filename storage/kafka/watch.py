"""Waiting at the end: one long poll per broker for all partitions that somebody waits in, so idling costs nothing.

A partition stays in the poll a few seconds after the last one who waited left, since who follows comes back at once.
A poll cannot be changed while it is under way: partitions that are new are polled on a second connection, in shorter
turns, until the first poll returns and takes them in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from dynlog.errors import DynlogError
from dynlog.storage.kafka.cluster import Cluster
from dynlog.storage.kafka.fetches import Spot, parts_of
from dynlog.storage.kafka.protocol import FetchRequest
from dynlog.storage.kafka.wires import ANSWER_S, Purpose
from dynlog.timing import SYSTEM_CLOCK, Deadline

POLL_MS = 500
NEWCOMERS_POLL_MS = 50
LINGER_S = 5.0
_POLL_BYTES = 1 << 20

Key = tuple[bytes, int]


@dataclass(slots=True, eq=False)
class _Entry:
    """A partition that is polled from ``offset`` on."""

    offset: int
    left_at: float
    waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class Watch:
    """All long polls of one log handle; owns their tasks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pollers: dict[int, _Poller] = {}

    async def wait(self, node: int, spot: Spot, seconds: float) -> None:
        """Returns once there may be something to read at the spot, or an error to find, or the time is over."""
        poller = self._pollers.setdefault(node, _Poller(self._cluster, node))
        await poller.wait((spot.topic_id, spot.partition), spot.offset, seconds)

    async def close(self) -> None:
        """Ends the polls."""
        await asyncio.gather(*(poller.close() for poller in self._pollers.values()))


class _Poller:
    """The long polls at one broker."""

    def __init__(self, cluster: Cluster, node: int) -> None:
        self._cluster = cluster
        self._node = node
        self._entries: dict[Key, _Entry] = {}
        self._polled: Collection[Key] = ()
        self._tasks: dict[Purpose, asyncio.Task[None]] = {}
        self._closed = False

    async def wait(self, key: Key, offset: int, seconds: float) -> None:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(offset, 0.0)
        elif offset < entry.offset and entry.waiters:
            return  # others wait further on, so there is something here
        # The caller has just found nothing at this offset: whatever the entry knew, that is newer.
        entry.offset = offset
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.waiters.add(waiter)
        self._start(Purpose.POLL)
        if key not in self._polled and self._polled:
            self._start(Purpose.NEWCOMERS)
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            entry.waiters.discard(waiter)
            entry.left_at = SYSTEM_CLOCK.monotonic()

    def _start(self, purpose: Purpose) -> None:
        if purpose not in self._tasks and not self._closed:
            poll = self._poll_all if purpose is Purpose.POLL else self._poll_newcomers
            task = asyncio.create_task(poll(), name=f"dynlog-kafka-{purpose.value}-{self._node}")
            self._tasks[purpose] = task

    async def _poll_all(self) -> None:
        try:
            while self._drop_idle():
                self._polled = set(self._entries)
                await self._poll(Purpose.POLL, self._polled, POLL_MS)
        finally:
            self._polled = ()
            self._tasks.pop(Purpose.POLL, None)
            self._give_up(list(self._entries))

    async def _poll_newcomers(self) -> None:
        try:
            while newcomers := [key for key in self._entries if key not in self._polled]:
                await self._poll(Purpose.NEWCOMERS, newcomers, NEWCOMERS_POLL_MS)
        finally:
            self._tasks.pop(Purpose.NEWCOMERS, None)

    def _drop_idle(self) -> bool:
        """Whether anything is left to poll."""
        now = SYSTEM_CLOCK.monotonic()
        for key, entry in list(self._entries.items()):
            if not entry.waiters and now - entry.left_at > LINGER_S:
                del self._entries[key]
        return bool(self._entries)

    async def _poll(self, purpose: Purpose, keys: Collection[Key], wait_ms: int) -> None:
        wanted = [(*key, self._entries[key].offset) for key in keys if key in self._entries]
        request = FetchRequest(wanted, wait_ms=wait_ms, max_bytes=_POLL_BYTES, each_bytes=1)
        try:
            answer = await self._cluster.ask_node(self._node, purpose, request, Deadline(ANSWER_S))
        except DynlogError:
            self._give_up(list(keys))  # whoever waited reads again and is told
            return
        self._digest(answer, list(keys))

    def _digest(self, answer: Any, keys: list[Key]) -> None:
        if answer.error_code:
            self._give_up(keys)
        for topic_id, partition, fetched in parts_of(answer):
            entry = self._entries.get((topic_id, partition))
            if entry is None:
                continue
            if fetched.code:
                self._give_up([(topic_id, partition)])
            elif fetched.end > entry.offset:
                entry.offset = fetched.end
                entry.wake()

    def _give_up(self, keys: list[Key]) -> None:
        for key in keys:
            entry = self._entries.pop(key, None)
            if entry is not None:
                entry.wake()

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
