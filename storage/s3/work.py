"""The asynchronous side of the S3 store: requests in a bounded pool of threads, tried again while that makes sense.

* **Every wait has a deadline, and a cancelled request is ended**: its socket is shut down and its thread is free.
* **What may pass is tried again** with backoff for `PERSISTENCE_S`, all requests being such that a repeat is harmless.
* **A write that could still take effect is waited for** a moment when its caller is cancelled, so that what the caller
  does next is not overtaken by it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from dynlog.blocking import BlockingPool
from dynlog.errors import DynlogError
from dynlog.storage.s3.client import Client
from dynlog.storage.s3.connection import Aborted, Exchange
from dynlog.storage.s3.failures import Refused, Unreached, translated
from dynlog.storage.s3.location import Location
from dynlog.storage.s3.names import Names
from dynlog.tasks import ended
from dynlog.timing import Backoff, Clock, Deadline
from dynlog.waits import Waits

THREADS = 8
COMPUTING_THREADS = 2
"""For hashing, which must not queue behind requests that wait for the server."""
PERSISTENCE_S = 10.0
"""How long one request is tried again before its failure is the caller's; a restart of a server takes less."""
BACKOFF = Backoff(first=0.05, most=1.0)
LINGER_S = 2.0
"""How long a cancelled write may still come to its end by itself."""
CLEAN_S = 5.0
"""How long cleaning up may take; what it does not reach is for garbage collection."""

P = ParamSpec("P")
T = TypeVar("T")


class Work:
    """What the store, its reads and its uploads have done by threads; belongs to one event loop."""

    def __init__(self, location: Location, store: str, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.names = Names(location.prefix)
        self.client = Client(location, THREADS)
        self.waits = Waits(f"the object store {store}")
        self._pool = BlockingPool(THREADS, "dynlog-s3")
        self._computing = BlockingPool(COMPUTING_THREADS, "dynlog-s3-hash")

    async def close(self) -> bool:
        """Ends what is under way, the threads and the connections; False if closed before."""
        if not await self.waits.close():
            return False
        await self._pool.close()
        await self._computing.close()
        self.client.close()
        return True

    async def ask(
        self, doing: str, key: str | None, timeout: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A request whose repeat is harmless; raises DeadlineExceeded, Closed, and foreign errors as ours."""
        with self.translating(key):
            return await self.ask_raw(doing, timeout, function, *args, **kwargs)

    async def ask_raw(
        self, doing: str, timeout: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `ask`, raising Refused and Unreached: for who makes something of them."""
        return await self._insist(doing, timeout, Exchange, 0.0, lambda: function(*args, **kwargs))

    async def write(self, doing: str, timeout: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `ask_raw`, for what makes or removes an object."""
        return await self._insist(doing, timeout, Exchange, LINGER_S, lambda: function(*args, **kwargs))

    async def step(self, exchange: Exchange, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One call in an exchange that began elsewhere, once; the caller limits the wait.  Raises as `ask_raw`."""
        return await self._pool.run_abortable(exchange.abort, exchange.run, lambda: function(*args, **kwargs))

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something that talks to nobody."""
        return await self._computing.run(function, *args, **kwargs)

    async def clean(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """A request that a cancelled caller does not skip, nor a failure of it change anything."""

        async def bounded() -> None:
            with suppress(Refused, Unreached, Aborted, TimeoutError):
                async with asyncio.timeout(CLEAN_S):
                    await self.step(Exchange(), function, *args, **kwargs)

        cleaning = asyncio.ensure_future(bounded())
        try:
            await asyncio.shield(cleaning)
        except asyncio.CancelledError:
            await ended(cleaning)
            raise

    def translating(self, key: str | None) -> _Translating:
        """A block in which Refused and Unreached become our errors."""
        return _Translating(self, key)

    def translated(self, error: Refused | Unreached, key: str | None) -> DynlogError:
        """Our error for it."""
        return translated(error, self.client.location, self.store, key)

    async def _insist(
        self, doing: str, timeout: float, exchange_for: Callable[[], Exchange], linger: float, call: Callable[[], T]
    ) -> T:
        with self.waits.operation():
            deadline = Deadline(timeout)
            patience = Deadline(min(timeout, PERSISTENCE_S))
            for pause in BACKOFF:
                async with self.waits.limit(deadline.remaining, doing):
                    try:
                        return await self._once(exchange_for(), linger, call)
                    except (Refused, Unreached) as error:
                        if not error.transient or patience.remaining <= pause:
                            raise
                    await asyncio.sleep(pause)
        raise AssertionError("a backoff has no end")

    async def _once(self, exchange: Exchange, linger: float, call: Callable[[], T]) -> T:
        if not linger:
            return await self.step(exchange, call)
        running = asyncio.ensure_future(self.step(exchange, call))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running], timeout=linger)
            running.cancel()  # aborts the exchange if it still runs
            await ended(running)
            raise


class _Translating:
    def __init__(self, work: Work, key: str | None) -> None:
        self._work = work
        self._key = key

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Refused | Unreached):
            raise self._work.translated(error, self._key) from error


class Window(Generic[T]):
    """At most ``width`` calls under way, results in the order of the calls; whoever leaves the block ends them all."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._running: deque[asyncio.Task[T]] = deque()
        self.results: list[T] = []

    async def add(self, call: Coroutine[Any, Any, T]) -> None:
        """Begins the call once there is room; raises what an earlier one raised."""
        try:
            while len(self._running) >= self.width:
                await self._oldest()
        except BaseException:
            call.close()
            raise
        self._running.append(asyncio.ensure_future(call))

    async def rest(self) -> list[T]:
        """All results."""
        while self._running:
            await self._oldest()
        return self.results

    async def _oldest(self) -> None:
        self.results.append(await self._running[0])
        self._running.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await ended(asyncio.gather(*self._running, return_exceptions=True))
