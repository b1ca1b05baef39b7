"""Every wait of a store has a deadline, and closing it ends all of them with Closed; no wait swallows a cancellation.

`Waits.limit` is around each single wait (never around a ``yield`` to the caller); `Waits.operation` is around a whole
call, its clean-up included, so that `close` returns only when nobody is at work any more.

`end_task` and `ended` are for whoever ends a task.  Awaiting it under ``suppress(CancelledError)`` would be shorter,
but takes a cancellation of the one who waits for the task's own, and loses it.  `until_started` is for whoever begins
one that runs an HTTP server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

from dynlog.blocking import GRACE_S
from dynlog.errors import Closed, DeadlineExceeded, DynlogError
from dynlog.timing import Backoff, Deadline

START_S = 10.0
"""How long a server of our own may take until it answers; it takes milliseconds."""
_LOOKS = Backoff(first=0.005, most=0.05)


class Waits:
    """The waits of one open store (``what`` names it in messages); belongs to one event loop."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._closed = False
        self._limits: set[asyncio.Timeout] = set()
        self._operations = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """Raises Closed once `close` was called."""
        if self._closed:
            raise Closed(f"{self._what} was closed")

    @asynccontextmanager
    async def limit(self, seconds: float, doing: str) -> AsyncIterator[None]:
        """Raises DeadlineExceeded if the block takes longer, Closed if `close` comes first."""
        self.check()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise  # somebody else's, inside the block
            self.check()
            raise DeadlineExceeded(f"{seconds:g} s were not enough for {doing} ({self._what})") from None

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Lets `close` wait for the end of the block; raises Closed once it was called."""
        self.check()
        self._operations += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._operations -= 1
            if not self._operations:
                self._idle.set()

    async def close(self) -> bool:
        """Ends all waits and waits for the operations, at most a grace; False if closed before."""
        if self._closed:
            return False
        self._closed = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):  # `asyncio.wait_for` can lose a cancellation before Python 3.12
                await self._idle.wait()
        return True


async def end_task(task: asyncio.Future[Any]) -> None:
    """Cancels the task and returns once it has ended; a cancellation of the caller is raised then, and never lost.

    Raises what the task failed with, unless the caller was cancelled: then that failure is the cancellation's cause.
    What is to be done after it in any case belongs into a ``finally``.
    """
    task.cancel()
    cancelled = await _until_done(task)
    failure = None if task.cancelled() else task.exception()
    if cancelled is not None:
        raise cancelled from failure
    if failure is not None:
        raise failure


async def ended(task: asyncio.Future[Any]) -> None:
    """As `end_task`, for what is about to end by itself and whose failure is nobody's business."""
    cancelled = await _until_done(task)
    if not task.cancelled():
        task.exception()  # seen, so that nobody complains of it
    if cancelled is not None:
        raise cancelled


class Startable(Protocol):
    """An HTTP server, such as uvicorn's, which says of itself that it has started."""

    started: bool


async def until_started(
    server: Startable, serving: asyncio.Task[Any], what: str, error: type[DynlogError] = DynlogError
) -> None:
    """Returns once the server, which that task runs, answers; if it does not within `START_S` the task is ended.

    Raises DeadlineExceeded then, what the task failed with, and ``error`` if it ended without failing.
    """
    deadline = Deadline(START_S)
    for pause in _LOOKS:
        if server.started:
            return
        if serving.done():
            serving.result()
            raise error(f"{what} was stopped before it answered: start it again")
        if deadline.passed:
            await end_task(serving)
            raise DeadlineExceeded(
                f"{what} did not answer within {START_S:g} s: this process is kept from running; stop what keeps it "
                "or the machine busy, and start it again"
            )
        await asyncio.wait([serving], timeout=min(pause, deadline.remaining))
    raise AssertionError("a backoff has no end")


async def _until_done(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Waits for it, whoever cancels the caller; returns that cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
