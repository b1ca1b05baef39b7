"""From a thread to its event loop: what is posted is taken on the loop, in order, soon after.

`asyncio.loop.call_soon_threadsafe` does the same by way of a pair of sockets, of which it reads until nothing is left;
an eventfd (Linux) is one write and one read.  An append that goes alone waits for this twice as long as for its SQL.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Postbox(Generic[T]):
    """Belongs to the running event loop, on which ``take`` is called with each item; that must not block."""

    def __init__(self, take: Callable[[T], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._items: deque[T] = deque()
        self._fd = -1
        with suppress(AttributeError, OSError):  # no Linux, or no descriptor left: it works without
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                self._loop.add_reader(fd, self._rung)
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd

    def post(self, item: T) -> None:
        """Hands an item over, from any thread, until `close`."""
        self._items.append(item)
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)
            return
        with suppress(RuntimeError):  # the loop may be gone if nobody closed this
            self._loop.call_soon_threadsafe(self._take_all)

    def close(self) -> None:
        """Gives the descriptor back, on the loop and once nobody posts any more; what was posted is still taken."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(RuntimeError):  # the loop is gone
                self._loop.remove_reader(fd)
            os.close(fd)
        self._take_all()

    def _rung(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self._take_all()

    def _take_all(self) -> None:
        try:
            while self._items:
                self._take(self._items.popleft())
        finally:
            if self._items:  # one was refused with an error, which the loop reports; the others are not to wait for it
                self._loop.call_soon(self._take_all)
