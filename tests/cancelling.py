"""Cancels whoever closes something in the very instant in which what he waits for ends: there it was lost once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

PATIENCE_S = 20.0


async def cancelled_as_it_ends(closing: Coroutine[Any, Any, object], inner: asyncio.Task[Any]) -> None:
    """Whoever closes is cancelled between the end of the inner task and his waking up, and ends as cancelled."""
    closer = asyncio.create_task(closing)
    inner.add_done_callback(lambda _: closer.cancel())
    await asyncio.wait([closer], timeout=PATIENCE_S)
    assert inner.done()
    assert closer.cancelled(), closer


def task_called(start: str) -> asyncio.Task[Any]:
    """The only running task whose name starts like that."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_name().startswith(start))
    return task
