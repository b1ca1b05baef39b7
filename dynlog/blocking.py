"""Blocking calls run in a bounded pool of threads, and a cancelled call returns only once its function has ended.

So whoever cleans up after a cancelled call finds nobody still writing.  A function that hangs (a dead network disk) is
given up after a grace, and what it leaves is for garbage collection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from dynlog.errors import Closed

GRACE_S = 10.0

P = ParamSpec("P")
T = TypeVar("T")


class BlockingPool:
    """A pool of at most ``threads`` threads, used from one event loop; an async context manager."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._running: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; raises Closed after `close`."""
        return await self.run_abortable(_nothing, function, *args, **kwargs)

    async def run_abortable(
        self, abort: Callable[[], None], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`; ``abort`` makes the function end soon, and is called when the caller is cancelled."""
        if self._closed:
            raise Closed("the pool of threads was closed")
        submitted = self._executor.submit(function, *args, **kwargs)
        future = asyncio.wrap_future(submitted)
        self._running.add(future)
        future.add_done_callback(self._ended)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not submitted.cancel():
                abort()
                await _settle(future)
            raise

    async def run_to_end(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but a cancelled caller does not keep the function from running: for cleaning up."""
        call = asyncio.ensure_future(self.run(function, *args, **kwargs))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await _settle(call)
            if call.done() and not call.cancelled():
                call.exception()
            raise

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            future.exception()  # a cancelled caller does not ask for it, and asyncio would complain

    async def close(self) -> None:
        """Waits for what runs, at most the grace, and ends the threads."""
        self._closed = True
        if self._running:
            await asyncio.wait(set(self._running), timeout=GRACE_S)
        self._executor.shutdown(wait=not self._running, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _nothing() -> None:
    """Aborts nothing: the function has to come to its end by itself."""


async def _settle(future: asyncio.Future[Any]) -> None:
    """Waits until the future is done although this task is being cancelled, at most the grace."""
    loop = asyncio.get_running_loop()
    end = loop.time() + GRACE_S
    while not future.done() and (left := end - loop.time()) > 0:
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError:
            continue  # the caller's cancellation is on its way already
