"""One thread writes: what queued while the last fsync ran is one transaction, and is acknowledged after the bell.

A job is a function over the transaction.  Jobs run in the order in which they were handed over; one that fails takes
nothing with it: if it had changed anything, the transaction is rolled back and the others run again without it.
An I/O error at COMMIT ends the writer for good: after a failed fsync nobody knows what is on the disk (Rebello et al.,
"Can Applications Recover from fsync Failures?", ATC 2020), so nothing is retried and the log has to be opened again.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from dynlog.errors import Closed, DeadlineExceeded, DynlogError, LogFull, LogUnavailable, OutcomeUnknown
from dynlog.limits import Limits
from dynlog.prompt import Prompt, go_on
from dynlog.storage.sqlite.ahead import Ahead
from dynlog.storage.sqlite.bell import Bell
from dynlog.storage.sqlite.budget import Budget
from dynlog.storage.sqlite.failures import BUSY, code_of, translated
from dynlog.storage.sqlite.jobs import Advanced, Done, Job, Outcome
from dynlog.storage.sqlite.postbox import Postbox
from dynlog.storage.sqlite.room import Room
from dynlog.storage.sqlite.schema import WAL_KEPT_BYTES
from dynlog.storage.sqlite.transaction import Transaction

logger = logging.getLogger(__name__)
T = TypeVar("T")
GROUP_JOBS, GROUP_BYTES = 1024, 8 << 20
QUEUED_BYTES, QUEUED_JOBS = 64 << 20, 8192
RESTART_EVERY_S = 1.0
CARE_BYTES, COMMIT_BYTES = 256 << 10, 16 << 10
"""After so many bytes it is looked at how long the write-ahead log has become; a commit, which writes whole pages,
counts as so many at least."""
CLOSE_PATIENCE_S = 5.0
"""How long closing waits for a lock that another process holds."""


REPEAT = (
    "what was under way may or may not be stored; close the log, open it again, and repeat the appends under the same "
    "marks"
)


class _NotRung(Exception):
    """The transaction is committed but the bell does not know it."""


class State(Enum):
    """What the writer does with a job."""

    OPEN = "takes jobs"
    CLOSING = "finishes what was handed over"
    FAILED = "refuses everything after an I/O error"


class Writer:
    """The writer of one open log; `run` from its event loop, `close` ends the thread."""

    def __init__(
        self, path: Path, db: sqlite3.Connection, bell: Bell, on_commit: Callable[[int, Advanced], None]
    ) -> None:
        """Closes ``db`` in the end; calls ``on_commit`` on the event loop before a commit's jobs are acknowledged."""
        self._path = path
        self._bell = bell
        self._db = db
        self._tx = Transaction(db)
        self._room = Room(path, db)
        self._ahead = Ahead(db, self._room)
        self._loop = asyncio.get_running_loop()
        self._on_commit = on_commit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._budget = Budget(QUEUED_BYTES, QUEUED_JOBS)
        self._limits = Limits()
        self._state = State.OPEN
        self._closing_since = 0.0
        self._no_restart_before = 0.0
        self._uncared_bytes = 0
        self._ended = asyncio.Event()
        self._done = Postbox(self._take_back)
        self._writing = threading.Thread(target=self._write, name=f"dynlog-write-{path.name}", daemon=True)
        self._writing.start()

    async def run(self, work: Callable[[Transaction], T], *, timeout: float, size: int = 0) -> T:
        """The outcome of the work once it is durable.

        Raises what the work raises, LogFull or LogUnavailable (nothing stored), OutcomeUnknown or DeadlineExceeded
        (may be stored), Closed.
        """
        until = self._loop.time() + timeout
        if not self._budget.take_now(size):
            try:
                async with asyncio.timeout_at(until):
                    await self._budget.take(size)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{timeout:g} s passed while too much waited to be written to {self._path}: nothing was stored"
                ) from None
        try:
            self._check_open()
        except DynlogError:
            self._budget.give_back(size)
            raise
        job = Job(work, size, Prompt(self._loop))
        self._limits.begin(job.future, until, lambda: self._late(timeout))
        self._jobs.put(job)  # last: the thread wakes, and wants the interpreter that this one still holds
        try:
            outcome: T = await job.future
        finally:
            self._limits.end(job.future)
            job.abandoned = True
        return outcome

    def _late(self, timeout: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"{timeout:g} s passed before {self._path} acknowledged: it may or may not be stored")

    async def close(self) -> None:
        """Finishes what was handed over and ends the thread."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
        if not self._closing_since:
            self._closing_since = time.monotonic()
            self._jobs.put(None)
        await self._ended.wait()
        self._writing.join()
        self._done.close()
        self._limits.close()

    def _check_open(self) -> None:
        match self._state:
            case State.CLOSING:
                raise Closed(f"the log {self._path} was closed")
            case State.FAILED:
                raise LogUnavailable(f"writing {self._path} failed before: close the log and open it again")

    def _end(self) -> None:
        """The thread writes nothing more: what it has not taken was not stored."""
        self._ended.set()
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None:
                self._budget.give_back(job.size)
                if not job.future.done():
                    job.future.set_exception(LogUnavailable(f"{self._path} is written no more: nothing was stored"))

    # The thread

    def _write(self) -> None:
        group: list[Job] = []
        try:
            last = False
            while not last:
                group, last = self._next_group()
                if group:
                    self._commit(group)
                    size, group = sum([job.size for job in group]), []  # which are not the writer's any more
                    self._care_in_time(size)
        except Exception as defect:
            logger.exception("the writer of %s ends by a defect", self._path)
            self._state = State.FAILED
            unknown = OutcomeUnknown(f"the writer of {self._path} ended by a defect ({defect!r}): {REPEAT}")
            self._done.post(Done(group, [(job, None, unknown) for job in group], None, {}))
        finally:
            self._db.close()
            self._done.post(None)

    def _next_group(self) -> tuple[list[Job], bool]:
        """What is queued, at least one job, and whether it is the last group."""
        group: list[Job] = []
        size = 0
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            size += job.size
            if len(group) >= GROUP_JOBS or size >= GROUP_BYTES or self._jobs.empty():
                return group, False
            job = self._jobs.get_nowait()  # nobody else takes any
        return group, True

    def _commit(self, group: list[Job]) -> None:
        jobs, refused = self._with_room([job for job in group if not job.abandoned])
        outcomes, commit = self._transact(jobs)
        outcomes = refused + outcomes
        advanced = dict(self._tx.advanced) if commit is not None else {}
        self._done.post(Done(group, outcomes, commit, advanced))

    def _with_room(self, jobs: list[Job]) -> tuple[list[Job], list[Outcome]]:
        """The jobs that may run, and the appends that would leave no space to truncate."""
        size = sum(job.size for job in jobs)
        if not size or self._state is State.FAILED or self._room.is_there(size):
            return jobs, []
        full = LogFull(
            f"no space is left for {self._path} (what there is, truncation needs): nothing was stored; free some and "
            "go on"
        )
        return [job for job in jobs if not job.size], [(job, None, full) for job in jobs if job.size]

    def _transact(self, jobs: list[Job]) -> tuple[list[Outcome], int | None]:
        """The outcome of every job, and the commit's number if anything was changed."""
        failed: list[Outcome] = []
        while jobs:
            try:
                if self._state is State.FAILED or not self._begin(jobs):
                    error = LogUnavailable(f"{self._path} could not be locked for writing: nothing was stored")
                    return failed + [(job, None, error) for job in jobs], None
                self._tx.begin()
                done, culprit = self._work(jobs)
                if culprit is None:
                    return failed + done, self._finish()
            except Exception as problem:
                explained = self._explained(problem)
                return failed + [(job, None, explained) for job in jobs], None
            failed.append(culprit)
            jobs = [job for job in jobs if job is not culprit[0]]
        return failed, None

    def _begin(self, jobs: list[Job]) -> bool:
        """Takes the write lock; False once nobody waits for it any more.

        SQLite's own waiting backs off to 100 ms and so starves whoever waits longest; a short random pause is fair.
        """
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.OperationalError as error:
                if code_of(error) not in BUSY:
                    raise
            if all(job.abandoned for job in jobs):
                return False
            if self._closing_since and time.monotonic() > self._closing_since + CLOSE_PATIENCE_S:
                return False
            time.sleep(random.uniform(0.0002, 0.002))

    def _work(self, jobs: list[Job]) -> tuple[list[Outcome], Outcome | None]:
        """Each job's outcome, or the job that failed half-way, after a rollback."""
        outcomes: list[Outcome] = []
        for job in jobs:
            before = self._tx.changes
            try:
                outcomes.append((job, job.work(self._tx), None))
            except sqlite3.Error:
                raise
            except Exception as error:
                outcome = (job, None, error)
                if self._tx.changes != before:
                    self._roll_back()
                    return [], outcome
                outcomes.append(outcome)
        return outcomes, None

    def _finish(self) -> int | None:
        """Commits and rings; the commit's number, or None if nothing was changed."""
        if not self._tx.changes:
            self._db.execute("ROLLBACK")
            return None
        commit = self._tx.flush()
        self._db.execute("COMMIT")
        try:
            self._bell.ring(commit)
        except (OSError, LogUnavailable) as error:
            raise _NotRung(f"its bell cannot be written: {error}") from error
        return commit

    def _roll_back(self) -> None:
        self._tx.forget()
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _explained(self, problem: Exception) -> Exception:
        """What an error means for all jobs of the transaction, which is rolled back."""
        self._roll_back()
        if isinstance(problem, sqlite3.Error) and code_of(problem) != sqlite3.SQLITE_IOERR:
            return translated(problem, self._path)
        if not isinstance(problem, sqlite3.Error | _NotRung):
            return problem
        self._state = State.FAILED
        return OutcomeUnknown(f"{self._path} failed while it was written ({problem}): {REPEAT}")

    def _take_back(self, done: Done | None) -> None:
        """What the thread posts; None is the last of it."""
        if done is None:
            self._end()
        else:
            self._acknowledge(done)

    def _acknowledge(self, done: Done) -> None:
        for job in done.group:
            self._budget.give_back(job.size)
        if done.commit is not None:
            self._on_commit(done.commit, done.advanced)
        settled: list[Prompt[Any]] = []
        for job, outcome, error in done.outcomes:
            if job.future.done():
                continue
            if error is None:
                job.future.settle(outcome)
                settled.append(job.future)
            else:
                job.future.set_exception(error)
        go_on(settled)

    def _care_in_time(self, size: int) -> None:
        """Not after each commit: the event loop, which has just been woken, wants the interpreter."""
        self._uncared_bytes += max(size, COMMIT_BYTES)
        if self._uncared_bytes >= CARE_BYTES:
            self._uncared_bytes = 0
            self._care_for_wal()

    def _care_for_wal(self) -> None:
        """SQLite checkpoints by itself but starts the file over only when no reader looks at it: insist once it is big.

        Readers of this engine look for milliseconds, so this wait is short.
        """
        now = time.monotonic()
        if now < self._no_restart_before:
            return
        with suppress(sqlite3.Error):
            size = self._room.wal_bytes()
            self._ahead.lay_out(size)
            if size > WAL_KEPT_BYTES:
                self._no_restart_before = now + RESTART_EVERY_S
                self._db.execute("PRAGMA busy_timeout = 100")
                try:
                    self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                finally:
                    self._db.execute("PRAGMA busy_timeout = 0")
