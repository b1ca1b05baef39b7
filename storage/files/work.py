"""The asynchronous side of the file store: blocking steps in a few threads, each with a deadline, none left behind."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import aclosing
from typing import ParamSpec, TypeVar

from dynlog.blocking import BlockingPool
from dynlog.bodies import pieces_of
from dynlog.drafts import Draft
from dynlog.errors import ConfigurationError, DynlogError, ObjectStoreUnavailable
from dynlog.objects import PIECE_BYTES, Body, Progress
from dynlog.storage.files.layout import LOCKS
from dynlog.storage.files.vault import Busy, Vault
from dynlog.timing import Backoff
from dynlog.waits import Waits

THREADS = 4
LOCK_BACKOFF = Backoff(first=0.001, most=0.05)
"""How long to wait for another process's put or delete, which takes a few milliseconds."""
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

P = ParamSpec("P")
T = TypeVar("T")


class Work:
    """What the store and its uploads have done by threads; belongs to one event loop."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.waits = Waits(f"the object store {vault.store}")
        self._pool = BlockingPool(THREADS, "dynlog-files")
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    async def close(self) -> bool:
        """Ends what is under way and the threads; False if closed before."""
        if not await self.waits.close():
            return False
        await self._pool.close()
        return True

    async def step(self, key: str | None, timeout: float, function: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
        """One blocking call; raises DeadlineExceeded, Closed, and foreign errors as ours."""
        with self.waits.operation():
            async with self.waits.limit(timeout, f"{function.__name__} of {key!r}" if key else function.__name__):
                try:
                    return await self._pool.run(function, *args, **kw)
                except OSError as error:
                    raise self._translated(error, key) from error

    async def locked(self, key: str, timeout: float, function: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
        """As `step`, again and again while the function raises Busy."""
        lock = self._locks[self.vault.layout.lock_number(key)]
        async with self.waits.limit(timeout, f"the lock of {key!r}"), lock:
            for pause in LOCK_BACKOFF:
                try:
                    return await self.step(key, timeout, function, *args, **kw)
                except Busy:
                    await asyncio.sleep(pause)
        raise AssertionError("a backoff has no end")

    async def clean(self, function: Callable[[], None]) -> None:
        """A blocking call that a cancelled caller does not skip."""
        await self._pool.run_to_end(function)

    async def fill(self, draft: Draft, key: str, body: Body, progress: Progress | None, timeout: float) -> None:
        """Creates the draft and writes the body into it."""
        await self.step(key, timeout, draft.open)
        total = len(body) if isinstance(body, bytes) else None
        pieces = pieces_of(body, self.waits, piece_bytes=PIECE_BYTES, timeout=timeout, doing=f"put of {key!r}")
        async with aclosing(pieces):
            async for piece in pieces:
                await self.step(key, timeout, draft.write, piece)
                if progress is not None:
                    progress(draft.size, total)

    def _translated(self, error: OSError, key: str | None) -> DynlogError:
        if error.errno in NO_SPACE:
            why = "no space is left; nothing of it was stored: free some and try again"
        elif error.errno == errno.ENAMETOOLONG:
            return ConfigurationError(f"object key {key!r} is too long for a path in {self.vault.layout.root}")
        else:
            why = f"{error.strerror or error} ({error.filename or self.vault.layout.root})"
        return ObjectStoreUnavailable(why, store=self.vault.store, key=key)
