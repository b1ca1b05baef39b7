"""A reader follows a topic: every record once, in offset order within its partition, from the positions given on.

It reads all partitions at once and hands out what came before it reads on: decoding in an engine's thread *while* a
batch is being folded would not be faster, since both need the interpreter, and every change of hands costs up to 5 ms
(``sys.getswitchinterval``).  What it holds is bounded by one batch per partition.  Where the engine cannot check marks
it drops repeats and zombies' records by the dedupe table that it is given (`Reader.open` makes one).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from dynlog.batch import Batch, Position
from dynlog.dedupe import DedupeTable
from dynlog.errors import Closed
from dynlog.log import DEFAULT_READ_BYTES, Log, Where
from dynlog.tasks import ended
from dynlog.timing import Deadline

READ_WAIT_S = 20.0
"""How long one read waits at the end before it is asked again; only bounds how long a lost wake-up could go unseen."""


class Reader:
    """Follows the partitions in ``positions``; an async context manager whose exit leaves no read behind."""

    def __init__(
        self,
        log: Log,
        positions: Mapping[int, Position],
        *,
        dedupe: DedupeTable | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
    ) -> None:
        self._log = log
        self._positions = dict(positions)
        self._dedupe = dedupe
        self._max_bytes = max_bytes
        self._reads: dict[int, asyncio.Task[Batch]] = {}
        self._ends: dict[int, int] = {}
        self._closed = False

    @classmethod
    async def open(cls, log: Log, topic: str, where: Where = "earliest") -> Self:
        """A reader of all partitions from that place on; raises TopicNotFound."""
        info = await log.topic(topic)
        positions = {p: await log.position(topic, p, where) for p in range(info.partitions)}
        return cls(log, positions, dedupe=None if log.capabilities.checks_marks else DedupeTable())

    @property
    def positions(self) -> Mapping[int, Position]:
        """Where each partition is read next: behind every record that `next` has returned."""
        return self._positions

    @property
    def lag(self) -> int:
        """Records (holes counted) between the positions and the ends that the last reads saw."""
        return sum(max(end - self._positions[p].offset, 0) for p, end in self._ends.items())

    async def next(self, wait: float) -> Batch | None:
        """The next batch of any partition, or None if nothing came for ``wait`` seconds.

        A batch may be empty if all its records were repeats or it only passes over a hole; the position has moved
        then.  Raises what `Log.read` raises, as often as it is asked; after an error the positions stand where they
        stood.  A cancelled call loses nothing.
        """
        if self._closed:
            raise Closed("the reader is closed")
        deadline = Deadline(wait)
        while True:
            batch = self._take()
            if batch is not None:
                return self._dedupe.filter(batch) if self._dedupe is not None else batch
            if deadline.passed and self._reads:
                return None
            for partition, position in self._positions.items():
                if partition not in self._reads:
                    self._reads[partition] = self._fetch(position)
            await asyncio.wait(self._reads.values(), timeout=deadline.remaining, return_when=asyncio.FIRST_COMPLETED)

    def _take(self) -> Batch | None:
        """A batch that has come, moving the position behind it."""
        for partition, task in list(self._reads.items()):
            if not task.done():
                continue
            del self._reads[partition]
            batch = task.result()
            self._ends[partition] = batch.end_offset
            if batch.next_offset > self._positions[partition].offset:
                self._positions[partition] = batch.next_position
                return batch
            # Its wait at the end was over: it is asked again.
        return None

    def _fetch(self, position: Position) -> asyncio.Task[Batch]:
        return asyncio.create_task(
            self._log.read(position, max_bytes=self._max_bytes, wait=READ_WAIT_S),
            name=f"dynlog-read-{position.topic}-{position.partition}",
        )

    async def close(self) -> None:
        """Ends the reads; closing twice is harmless, and a close that is cancelled leaves none behind either."""
        self._closed = True
        reads, self._reads = list(self._reads.values()), {}
        for task in reads:
            task.cancel()
        # A read that is cancelled ends at once, so a cancellation can wait for it.
        await ended(asyncio.gather(*reads, return_exceptions=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
