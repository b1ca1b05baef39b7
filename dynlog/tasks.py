"""Tasks are ended, and servers begun, so that no cancellation is lost and nothing is left running.

Awaiting a task that was cancelled under ``suppress(CancelledError)`` would be shorter, but takes a cancellation of the
one who waits for the task's own, and loses it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from dynlog.errors import DeadlineExceeded, DynlogError
from dynlog.timing import Backoff, Deadline

START_S = 10.0
"""How long a server of our own may take until it answers; it takes milliseconds."""
_LOOKS = Backoff(first=0.005, most=0.05)


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
