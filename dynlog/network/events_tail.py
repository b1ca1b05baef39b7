"""A log topic as one subscription follows it: each of its events once and in order, by push or from the log.

While pushes bring every next event the log is not read; the first that is missing, refused or not the next one is
fetched from the log with all behind it, and so is whatever came last and was not pushed, as soon as it is quiet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from dynlog.batch import Batch, Position
from dynlog.codec import record_at
from dynlog.dedupe import DedupeTable
from dynlog.entity import DynamoEntityID
from dynlog.errors import LogUnavailable, MalformedRecord
from dynlog.log import Log
from dynlog.network.events import SHARED_TOPIC, Event, Place, from_record
from dynlog.reader import Reader
from dynlog.timing import Backoff

_log = logging.getLogger(__name__)
READ_WAIT_S = 5.0
IN_A_ROW = 8
"""After so many pushes, each the next event, the log is no longer read beside them."""
QUIET_S = 0.25
"""So long after the last push the log is looked at for what came since."""


class Sink(Protocol):
    """The subscription, as a tail needs it."""

    entity: DynamoEntityID
    topic: str

    async def wants_now(self, event: Event) -> bool:
        """Whether the event is for it."""

    @property
    def full(self) -> bool:
        """Whether nothing can be put now."""

    async def room(self) -> None:
        """Waits until something can be put."""

    def put(self, event: Event) -> None:
        """The event is the next one."""

    def end(self, error: Exception) -> None:
        """The log can bring no more."""


class Tail:
    """Follows the partitions in ``positions``, which are of one topic."""

    def __init__(self, log: Log, positions: Mapping[int, Position], sink: Sink) -> None:
        self.skipped = 0
        """Events that the log brought after a push had."""
        self._log, self._positions, self._sink = log, dict(positions), sink
        self._next = {partition: position.offset for partition, position in positions.items()}
        self._in_a_row = 0
        self._needed = asyncio.Event()
        # Where readers drop repeats they have to see everything.
        self._may_pause = log.capabilities.checks_marks and len(positions) == 1

    def is_next(self, place: Place) -> bool:
        """Whether a pushed event is the very next one."""
        return self._next.get(place.partition) == place.offset

    def took(self, place: Place) -> None:
        """The pushed event, the very next one, was put."""
        self._next[place.partition] = place.offset + 1
        self._in_a_row += 1

    def refused(self, place: Place) -> None:
        """The pushed event was not taken: unless it is an old one, the log is to bring it."""
        if place.offset >= self._next.get(place.partition, 0):
            self._needed.set()

    async def run(self) -> None:
        """Until it is cancelled, or the log no longer has what comes next."""
        pauses = iter(Backoff())
        while True:
            dedupe = None if self._log.capabilities.checks_marks else DedupeTable()
            async with Reader(self._log, self._positions, dedupe=dedupe) as reader:
                while not (self._may_pause and self._in_a_row >= IN_A_ROW):
                    try:
                        batch = await reader.next(READ_WAIT_S)
                        pauses = iter(Backoff())
                        if batch is not None:
                            await self._take(batch)
                    except LogUnavailable as error:
                        _log.warning("events on %r wait for the log: %s", self._sink.topic, error)
                        await asyncio.sleep(next(pauses))
                    except Exception as error:
                        self._sink.end(error)
                        return
            await self._pushes_suffice()
            self._positions = {p: at._replace(offset=self._next[p]) for p, at in self._positions.items()}

    async def _pushes_suffice(self) -> None:
        """Returns once they no longer do, or none came for a while."""
        self._needed.clear()
        seen = -1
        while seen != self._in_a_row and not self._needed.is_set():
            seen = self._in_a_row
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._needed.wait()
        self._in_a_row = 0

    async def _take(self, batch: Batch) -> None:
        sink, upcoming, columns, partition = self._sink, self._next, batch.columns, batch.partition
        topic, only = sink.topic.encode(), sink.entity.key if batch.topic == SHARED_TOPIC else None
        for index, headers in enumerate(columns.headers or ()):
            # At a glance: a log topic holds all topics of a collection, and one of them the events of all instances.
            if headers.get("topic") != topic or (only is not None and columns.keys[index] != only):
                continue
            offset = batch.offsets[index]
            if offset < upcoming[partition]:
                self.skipped += 1
                continue
            try:
                event = from_record(record_at(columns, index, None), Place(batch.topic, partition, offset))
            except MalformedRecord as error:
                _log.warning("passed over: %s", error)
                continue
            if not await sink.wants_now(event):
                continue
            upcoming[partition] = max(upcoming[partition], offset)  # while this waits a push may bring it
            while sink.full:
                await sink.room()
            if offset >= upcoming[partition]:
                upcoming[partition] = offset + 1
                self._in_a_row = 0
                sink.put(event)
        upcoming[partition] = max(upcoming[partition], batch.next_offset)
