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

from dynlog.errors import Closed
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.bell import Bell, bell_path
from dynlog.storage.sqlite.readers import Readers, View
from dynlog.storage.sqlite.rows import Part
from dynlog.storage.sqlite.watch import Watch

FALLBACK_S = 0.5
WITHOUT_WATCH_S = 0.02
"""How often the bell is looked at where inotify cannot be had."""
AT_ONCE = 256

Place = tuple[int, int]
"""Topic and partition."""
Seen = tuple[int, dict[Place, int] | None]
"""What a look saw: the commit, and ends, or None if nothing was new."""


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
        self._waiting: dict[Place, set[Waiter]] = {}
        self._own_commit = 0
        self._heard = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Future[Seen] | None = None
        self._seen = 0  # the commit that the last look saw
        self._newcomers = False
        """Whether somebody came since the last look began: the same commit may be news to them."""
        self._again = False
        self._watch: Watch | None = None
        with suppress(OSError):
            self._watch = Watch(bell_path(path))
            self._loop.add_reader(self._watch.fd, self._on_event)

    def enter(self, topic: int, partition: int, offset: int) -> Waiter:
        """Arms; look at the partition after this, then await ``woken``, and `leave` in any case."""
        waiter = Waiter(topic, partition, offset, self._loop.create_future())
        self._waiting.setdefault((topic, partition), set()).add(waiter)
        self._newcomers = True
        if self._watch is not None:
            try:
                self._watch.arm()
            except OSError:
                self._unwatch()
        if self._timer is None:
            self._due = self._loop.time() + FALLBACK_S
            self._timer = self._loop.call_later(self._pause(), self._tick)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Forgets a waiter."""
        same = self._waiting.get((waiter.topic, waiter.partition), set())
        same.discard(waiter)
        if not same:
            self._waiting.pop((waiter.topic, waiter.partition), None)
        if not self._waiting:
            self._stop_timer()
            if self._watch is not None:
                self._watch.disarm()

    def committed(self, commit: int, advanced: Mapping[Place, int]) -> None:
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
        self._stop_timer()
        self._unwatch()
        if self._looking is not None:
            await asyncio.wait([self._looking])

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause(self) -> float:
        return FALLBACK_S if self._watch is not None else WITHOUT_WATCH_S

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._pause(), self._tick)
        if self._watch is None:
            self._listen()
        if self._loop.time() >= self._due:
            self._look()

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
            self._look()

    def _look(self) -> None:
        """One query for all who wait; those who come while it runs are looked after by the next."""
        self._due = self._loop.time() + FALLBACK_S
        if self._looking is not None:
            self._again = True
        elif self._waiting:
            places = list(self._waiting)
            unless, self._newcomers = 0 if self._newcomers else self._seen, False
            self._looking = self._readers.start(_ends_of(places, unless))
            self._looking.add_done_callback(lambda done: self._looked(places, done))

    def _looked(self, places: list[Place], done: asyncio.Future[Seen]) -> None:
        self._looking = None
        # Whoever waits while a look fails finds out why by reading for itself.
        self._seen, ends = (0, {}) if done.cancelled() or done.exception() is not None else done.result()
        if ends is not None:
            for place in places:
                self._advance(place, ends.get(place))
        if self._again:
            self._again = False
            self._look()

    def _advance(self, place: Place, end: int | None) -> None:
        for waiter in self._waiting.get(place, ()):
            if (end is None or end > waiter.offset) and not waiter.woken.done():
                waiter.woken.set_result(None)


def _ends_of(places: list[Place], unless: int) -> Callable[[View], Seen]:
    """Work for a reader: the ends of those of the partitions that exist, unless the log is still at that commit."""

    def work(view: View) -> Seen:
        if view.head.commit == unless:
            return unless, None
        by_key = {rows.part_key(*place): place for place in places}
        keys, found = list(by_key), {}
        for at in range(0, len(keys), AT_ONCE):
            some = keys[at : at + AT_ONCE]
            marks = ",".join("?" * len(some))
            for key, frame in view.db.execute(f"SELECT key, frame FROM docs WHERE key IN ({marks})", some):
                found[by_key[key]] = Part(*rows.unsealed(key, frame)).end
        return view.head.commit, found

    return work
