"""Watching a bucket: what is there, a marker, then every change in order; and never a gap in silence.

    async with bucket.watch(prefix="v1/instances/") as watch:
        async for event in watch:
            match event:
                case Present(entry): ...   # the state, key by key
                case Ready(revision): ...  # that was the state as of this revision
                case Changed(entry): ...   # and this came after it; `entry.op` says whether the key is gone
                case Resync(reason): ...   # forget what you know: the state follows once more

A watcher that reads too slowly is told with `Resync` and given the state again; so is one that wants to go on from a
revision of which the bucket no longer knows what came after it.  If the bucket is deleted, the watch raises.

Whoever goes on from the revision of the last event that it has dealt with misses nothing.  Where a lease ended, all of
its keys are gone at one revision: going on from that one gives them once more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Self

from dynlog.errors import Closed, ConfigurationError, LogDiverged
from dynlog.kv.follower import Follower
from dynlog.kv.rows import Entry, Row, entry_of
from dynlog.log import Log
from dynlog.timing import Deadline

MOST_EVENTS = 16_384
EMPTY = -1
"""The revision of a bucket in which nothing was ever written."""
STEP = 256
"""So many events are given before the event loop has a turn, or one watcher would stall the heartbeats of leases."""


class Present(NamedTuple):
    """A key that is there."""

    entry: Entry


class Ready(NamedTuple):
    """Everything up to this revision has been given; what follows are changes."""

    revision: int


class Changed(NamedTuple):
    """A key that has another value now, or is gone."""

    entry: Entry


class Resync(NamedTuple):
    """Changes were passed over: forget what you know, the state follows once more."""

    reason: str


Event = Present | Ready | Changed | Resync


class Watch:
    """One watcher; an async context manager whose block may iterate over it.  At most ``most`` events wait for it."""

    def __init__(
        self,
        log: Log,
        follower: Follower,
        *,
        key: str | None,
        prefix: str | None,
        from_revision: int | None,
        most: int = MOST_EVENTS,
        timeout: float = 30.0,
    ) -> None:
        if key is not None and prefix is not None:
            raise ConfigurationError("watch: a key or a prefix, not both")
        if not isinstance(key if prefix is None else prefix, str | None):
            raise ConfigurationError("watch: a key or a prefix is text")
        if from_revision is not None and (type(from_revision) is not int or from_revision < EMPTY):
            raise ConfigurationError(
                f"watch: from_revision={from_revision!r}, a revision is a number from 0 on, or {EMPTY} if there is none"
            )
        if most < 1:
            raise ConfigurationError(f"watch: most={most}, at least one event has to have room")
        self._log, self._follower, self._timeout = log, follower, timeout
        self._key, self._prefix = key, prefix or ""
        self._from, self._most = from_revision, most
        self._queue: deque[Event] = deque()
        self._state: Iterator[Event] = iter(())
        self._lost: str | None = None
        self._wake = asyncio.Event()
        self._open = self._closed = False
        self._in_a_row = 0  # events given since others had a turn

    async def __aenter__(self) -> Self:
        follower = self._follower
        follower.check()
        if self._from is not None and self._from >= follower.offset:
            deadline = Deadline(self._timeout)
            end = (await self._log.partitions(follower.topic.name, timeout=deadline.remaining))[0].end
            if self._from >= end:
                raise LogDiverged(
                    f"from_revision={self._from}: the bucket ends at {end}, so that revision is another bucket's",
                    topic=follower.topic.name,
                    partition=0,
                    offset=self._from,
                )
            await follower.reached(self._from + 1, deadline)
        self._begin()
        follower.listeners.append(self._take)
        follower.on_rebuilt.append(self._rebuilt)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open:
            self._follower.listeners.remove(self._take)
            self._follower.on_rebuilt.remove(self._rebuilt)
        self._open, self._closed = False, True
        self._wake.set()

    def _begin(self) -> None:
        if self._from is None:
            self._state = self._all()
            return
        missed = self._follower.recent.since(self._from)
        if missed is None:
            self._lost = f"what came after revision {self._from} is no longer known one by one"
            return
        ready = Ready(self._follower.offset - 1)
        self._state = chain((Changed(entry_of(key, row)) for key, row in missed if self._wants(key)), (ready,))

    def _all(self) -> Iterator[Event]:
        """The state now, and the marker; what it yields is what was so when it was called."""
        fold, ready = self._follower.fold, Ready(self._follower.offset - 1)
        if self._key is not None:
            entry = fold.get(self._key)
            return iter((ready,) if entry is None else (Present(entry), ready))
        return chain((Present(entry_of(key, row)) for key, row in fold.walk(self._prefix)), (ready,))

    def _wants(self, key: str) -> bool:
        return key == self._key if self._key is not None else key.startswith(self._prefix)

    # From the follower

    def _take(self, changes: Sequence[tuple[str, Row]]) -> None:
        if self._lost is not None:
            return
        wants = self._wants
        for key, row in changes:
            if wants(key):
                self._queue.append(Changed(entry_of(key, row)))
        if len(self._queue) > self._most:
            self._lose(f"more than {self._most} events waited for this watcher")
        if self._queue:
            self._wake.set()

    def _rebuilt(self, reason: str) -> None:
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if self._follower.failure is None:  # else what waits is still given, and then the error
            self._queue.clear()
            self._state, self._lost = iter(()), reason
        self._wake.set()

    # For the watcher

    async def next(self, timeout: float | None = None) -> Event | None:
        """The next event, or None if nothing came for ``timeout`` seconds.

        Raises BucketNotFound if the bucket was deleted (also if it was created anew), LogDiverged if the log is no
        longer what it was, Closed.  A cancelled call loses nothing.
        """
        if self._in_a_row >= STEP:
            self._in_a_row = 0
            await asyncio.sleep(0)  # before an event is taken: who is cancelled here loses none
        if (event := self._ready()) is not None:
            self._in_a_row += 1
            return event
        self._in_a_row = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self._wake.wait()
                    if (event := self._ready()) is not None:
                        return event
        except TimeoutError:
            return None

    def _ready(self) -> Event | None:
        if self._closed or not self._open:
            raise Closed("the watch is not open")
        self._wake.clear()
        if self._lost is not None:
            reason, self._lost = self._lost, None
            self._state = self._all()
            return Resync(reason)
        if (event := next(self._state, None)) is not None:
            return event
        if self._queue:
            return self._queue.popleft()
        self._follower.check()
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self.next()
        assert event is not None
        return event
