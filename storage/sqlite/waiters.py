"""A reader at the end arms first, looks, then waits; one look serves all who wait, and nobody polls a busy loop.

Appends by this process wake their partition's readers directly.  Appends by others ring the bell, which inotify
reports; one query then finds out whose partitions moved.  The same query runs every half second, for a bell that did
not ring (a writer killed between COMMIT and bell) and for topics that are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dynlog.errors import Closed, DynlogError
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.bell import Bell, bell_path
from dynlog.storage.sqlite.readers import Readers, View
from dynlog.storage.sqlite.rows import Part
from dynlog.storage.sqlite.watch import Watch

FALLBACK_S = 0.5
WITHOUT_WATCH_S = 0.02
"""How often the bell is looked at where inotify cannot be had."""
AT_ONCE = 256


class Waiter(NamedTuple):
    """Somebody who waits for a partition to grow beyond ``offset``."""

    topic: int
    partition: int
    offset: int
    woken: asyncio.Future[None]


class Waiters:
    """All readers of one open log that wait; lives on its event loop."""

    def __init__(self, path: Path, bell: Bell, readers: Readers) -> None:
        self._bell = bell
        self._readers = readers
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[int, int], set[Waiter]] = {}
        self._rung = asyncio.Event()
        self._own_commit = 0
        self._heard = 0
        self._task: asyncio.Task[None] | None = None
        self._watch: Watch | None = None
        with suppress(OSError):
            self._watch = Watch(bell_path(path))
            self._loop.add_reader(self._watch.fd, self._on_event)

    def enter(self, topic: int, partition: int, offset: int) -> Waiter:
        """Arms; look at the partition after this, then await ``woken``, and `leave` in any case."""
        waiter = Waiter(topic, partition, offset, self._loop.create_future())
        self._waiting.setdefault((topic, partition), set()).add(waiter)
        if self._watch is not None:
            try:
                self._watch.arm()
            except OSError:
                self._unwatch()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._look_again())
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Forgets a waiter."""
        same = self._waiting.get((waiter.topic, waiter.partition), set())
        same.discard(waiter)
        if not same:
            self._waiting.pop((waiter.topic, waiter.partition), None)
        if not self._waiting and self._watch is not None:
            self._watch.disarm()

    def committed(self, commit: int, advanced: Mapping[tuple[int, int], int]) -> None:
        """This process committed; wakes who waits for what it appended."""
        self._own_commit = max(self._own_commit, commit)
        for place, end in advanced.items():
            self._advance(place, end)

    async def close(self) -> None:
        """Ends all waits with Closed."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.woken.done():
                    waiter.woken.set_exception(Closed("the log was closed while a read waited"))
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fd)
            self._watch.close()
            self._watch = None

    def _on_event(self) -> None:
        if self._watch is not None:
            self._watch.drain()
            self._listen()

    def _listen(self) -> None:
        """A look is due unless the bell rang for a commit of our own, whose readers are awake already."""
        commit = self._bell.read()
        if commit is None or commit > max(self._own_commit, self._heard):
            self._heard = commit or self._heard
            self._rung.set()

    async def _look_again(self) -> None:
        """Runs while anybody waits."""
        due = self._loop.time() + FALLBACK_S
        while self._waiting:
            pause = FALLBACK_S if self._watch is not None else WITHOUT_WATCH_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._rung.wait()
            if self._watch is None:
                self._listen()
            if self._rung.is_set() or self._loop.time() >= due:
                self._rung.clear()
                due = self._loop.time() + FALLBACK_S
                await self._look()

    async def _look(self) -> None:
        places = list(self._waiting)
        try:
            for at in range(0, len(places), AT_ONCE):
                some = places[at : at + AT_ONCE]
                ends = await self._readers.run(_ends_of(some))
                for place in some:
                    self._advance(place, ends.get(place))
        except DynlogError:
            # Whoever waits finds out by reading for itself.
            for place in places:
                self._advance(place, None)

    def _advance(self, place: tuple[int, int], end: int | None) -> None:
        for waiter in self._waiting.get(place, ()):
            if (end is None or end > waiter.offset) and not waiter.woken.done():
                waiter.woken.set_result(None)


def _ends_of(places: list[tuple[int, int]]) -> Callable[[View], dict[tuple[int, int], int]]:
    """Work for a reader: the ends of those of the partitions that exist."""

    def work(view: View) -> dict[tuple[int, int], int]:
        by_key = {rows.part_key(*place): place for place in places}
        found = view.db.execute(
            f"SELECT key, frame FROM docs WHERE key IN ({','.join('?' * len(by_key))})", tuple(by_key)
        )
        return {by_key[key]: Part(*rows.unsealed(key, frame)).end for key, frame in found}

    return work
