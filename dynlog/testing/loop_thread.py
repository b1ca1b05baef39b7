"""One event loop in one thread, owned by the test session: session-scoped servers live on it, whatever loops tests use.

Leaving the block ends the loop, everything on it, and the thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class LoopThread:
    """A context manager; `run` may be called from any thread but its own."""

    def __init__(self) -> None:
        self._started = threading.Event()
        # A daemon: a session that ends without its teardown must not hang in the interpreter's exit.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="dynlog-servers", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event

    def run(self, work: Coroutine[Any, Any, T], *, timeout: float) -> T:
        """Runs the coroutine on the loop and returns what it returns; TimeoutError after so many seconds.

        An interrupt (Ctrl-C) of the caller cancels the coroutine.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._ended.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
