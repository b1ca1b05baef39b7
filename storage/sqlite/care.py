"""Housekeeping: at most every few seconds, after appends, what retention no longer keeps goes and its space with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from dynlog.errors import DynlogError, LogFull
from dynlog.storage.sqlite import retention
from dynlog.storage.sqlite.options import Settings
from dynlog.storage.sqlite.readers import Readers
from dynlog.storage.sqlite.shrink import LOOSE_PAGES, free_pages, make_room, shrink_step
from dynlog.storage.sqlite.writer import Writer
from dynlog.tasks import end_task
from dynlog.timing import Clock
from dynlog.topics import Truncation

EVERY_S = 2.0
PURGE_EVERY_S = 600.0
STEP_TIMEOUT_S = 30.0


class Care:
    """The housekeeping of one open log: explicit truncations, and a task for the automatic ones."""

    def __init__(self, path: Path, settings: Settings, writer: Writer, readers: Readers, clock: Clock) -> None:
        self._path = path
        self._settings = settings
        self._writer = writer
        self._readers = readers
        self._clock = clock
        self._touched: set[str] = set()
        self._last = self._purged = clock.monotonic()
        self._due = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def appended(self, topic: str) -> None:
        """Takes note of an append; costs nothing."""
        self._touched.add(topic)
        if self._clock.monotonic() - self._last >= EVERY_S:
            self._last = self._clock.monotonic()
            self._due.set()

    async def close(self) -> None:
        """Ends the task between two steps."""
        await end_task(self._task)

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            topics, self._touched = self._touched, set()
            purge = self._clock.monotonic() - self._purged >= PURGE_EVERY_S
            if purge:
                self._purged = self._clock.monotonic()
            # Whatever is wrong with the log, whoever appends or reads is told; this only waits for the next time.
            with suppress(DynlogError):
                await self.sweep(STEP_TIMEOUT_S)
            for topic in sorted(topics):
                with suppress(DynlogError):
                    await self._tend(topic, purge)

    async def _tend(self, name: str, purge: bool) -> None:
        row = await self._writer.run(lambda tx: tx.topics().get(name), timeout=STEP_TIMEOUT_S)
        if row is None:
            return
        await self.retain(name, STEP_TIMEOUT_S, keep_pages=LOOSE_PAGES)
        for partition in range(row.topic.partitions) if purge else ():
            after: str | None = ""
            while after is not None:
                after = await self._purge(name, partition, after)

    async def _purge(self, name: str, partition: int, after: str) -> str | None:
        return await self._writer.run(
            lambda tx: retention.purge_step(tx, name, partition, after), timeout=STEP_TIMEOUT_S
        )

    async def truncate(
        self, name: str, partition: int, before: int, force: bool, timeout: float, incarnation: str | None
    ) -> Truncation:
        """Moves the start, then deletes what lies below it and gives the space back."""
        now_ms = self._clock.time_ms()
        outcome = await self._writer.run(
            lambda tx: retention.move_start(tx, name, partition, before, force, now_ms, incarnation), timeout=timeout
        )
        # Free pages can also be what an earlier truncation left that was cut short.
        if await self._delete(name, [partition], timeout) or await self._readers.call(free_pages) > 0:
            await self._shrink(0)
        return outcome

    async def retain(self, name: str, timeout: float, *, keep_pages: int = 0) -> list[Truncation]:
        """Expels holders and truncates what retention no longer keeps."""
        now_ms = self._clock.time_ms()
        outcome = await self._writer.run(lambda tx: retention.retain(tx, name, now_ms), timeout=timeout)
        if await self._delete(name, [truncation.partition for truncation in outcome], timeout):
            await self._shrink(keep_pages)
        return outcome

    async def sweep(self, timeout: float) -> None:
        """Deletes the rows of topics that are gone, whoever deleted them, and gives the space back."""
        deleted = False
        while await self._some(retention.drop_step, timeout):
            deleted = True
        if deleted:
            await self._shrink(0)

    async def _delete(self, name: str, partitions: list[int], timeout: float) -> bool:
        deleted = False
        for partition in partitions:
            step = partial(retention.delete_step, name=name, partition=partition)
            while await self._some(step, timeout):
                deleted = True
        return deleted

    async def _some(self, step: Callable[..., bool], timeout: float) -> bool:
        """Fewer rows where the disk is too full for more, after the write-ahead log has made room."""
        for most in (retention.STEP_ROWS, 8):
            with suppress(LogFull):
                return await self._writer.run(partial(step, most=most), timeout=timeout)
            await self._readers.call(lambda _: make_room(self._path, self._settings))
        return await self._writer.run(partial(step, most=1), timeout=timeout)

    async def _shrink(self, keep_pages: int) -> None:
        while await self._readers.call(lambda _: shrink_step(self._path, self._settings, keep_pages)):
            pass
