"""Readers have threads and connections of their own, and no transaction outlives a call.

A read transaction that stays open keeps SQLite's write-ahead log from starting over; so each call is one hop to a
thread, one short transaction, and nothing between calls.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dynlog.errors import Closed, DeadlineExceeded, TopicNotFound
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.failures import ours
from dynlog.storage.sqlite.memo import RowMemo
from dynlog.storage.sqlite.options import Settings
from dynlog.storage.sqlite.rows import Head, TopicRow
from dynlog.storage.sqlite.schema import connect

T = TypeVar("T")
THREADS = 2


@asynccontextmanager
async def within(seconds: float | None, what: str) -> AsyncIterator[None]:
    """Raises DeadlineExceeded, saying during what, once the time is over."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"{seconds:g} s passed while {what}") from None


class View:
    """What one read transaction sees."""

    def __init__(self, db: sqlite3.Connection, head: Head, topics: dict[str, TopicRow], memo: RowMemo) -> None:
        self.db = db
        self.memo = memo
        self.head = head
        self.topics = topics

    def topic(self, name: str) -> TopicRow:
        """A topic; raises TopicNotFound."""
        row = self.topics.get(name)
        if row is None:
            raise TopicNotFound("there is no such topic; create it first", topic=name)
        return row


class Readers:
    """A few threads that read; `run` from the event loop."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"dynlog-read-{path.name}")
        self._connections: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._topics: tuple[int, dict[str, TopicRow]] | None = None
        self._memo = RowMemo()
        self._closed = False

    def adopt(self, db: sqlite3.Connection) -> None:
        """Takes over a connection that was made elsewhere."""
        self._connections.put(db)

    async def run(self, work: Callable[[View], T], *, timeout: float | None = None) -> T:
        """The outcome of the work in one read transaction; raises DeadlineExceeded, Closed, and what it raises."""
        if self._closed:
            raise Closed(f"the log {self._path} was closed")
        async with within(timeout, f"{self._path} was read"):
            return await self.start(work)

    def start(self, work: Callable[[View], T]) -> asyncio.Future[T]:
        """`run` without waiting; the caller awaits the future before it closes this."""
        return asyncio.get_running_loop().run_in_executor(self._pool, self._read, work)

    def aside(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Runs what needs none of these connections in one of the threads."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The outcome of work that needs a connection but makes its transactions itself."""
        if self._closed:
            raise Closed(f"the log {self._path} was closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, work)

    async def close(self) -> None:
        """Finishes what runs and closes all connections."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._pool, self._disconnect)
            # In a thread: what still runs (a backup, say) may take long, and the event loop is not to wait for it.
            await asyncio.to_thread(self._pool.shutdown)
            self._disconnect()

    def _disconnect(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._connections.get_nowait().close()

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with ours(self._path):
            try:
                db = self._connections.get_nowait()
            except queue.Empty:
                db = connect(self._path, "ro", self._settings)
            try:
                return work(db)
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self._connections.put(db)

    def _read(self, work: Callable[[View], T]) -> T:
        def within(db: sqlite3.Connection) -> T:
            db.execute("BEGIN")
            return work(self._view(db))

        return self._call(within)

    def _view(self, db: sqlite3.Connection) -> View:
        head = Head(*rows.get(db, "head"))
        known = self._topics
        if known is None or known[0] != head.topics_version:
            known = self._topics = (head.topics_version, rows.all_topics(db, head))
        return View(db, head, known[1], self._memo)
