"""A fact on its way into a bucket's log."""

from __future__ import annotations

import asyncio
from typing import Any

from dynlog.errors import DynlogError
from dynlog.kv.fold import Outcome
from dynlog.record import Mark


class Said:
    """One fact, and the future of whoever waits for what comes of it; ``size`` is what it takes of the budget."""

    __slots__ = ("future", "given_up", "key", "mark", "parts", "sent", "size", "task")

    def __init__(self, key: bytes | None, parts: tuple[bytes, ...], size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.key, self.parts, self.size = key, parts, size
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.mark: Mark | None = None
        self.sent = self.given_up = False
        self.task: asyncio.Task[Any] | None = None
        """Whose task appends it, if not the lane's."""

    def give_up(self) -> None:
        """Ends its append, as `asyncio.timeout` does it, which would cost a tenth of a whole put."""
        if self.task is not None and not self.given_up:
            self.given_up = True
            self.task.cancel()

    def fail(self, error: DynlogError) -> None:
        """Whoever waits gets that error; an outcome that was read in the log counts more than a lost answer."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # nobody may be waiting any more
