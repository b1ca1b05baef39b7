"""SIGINT and SIGTERM mean the same: the first asks the command to close in order, a second ends the process at once.

Plain signal handlers and not the event loop's, because a handler of the loop is silent for as long as something blocks
it, and the promise is that the process is gone in time whatever it is doing.  Python runs a handler between two
instructions of the main thread, so `waking` has every signal wake the loop as well: one that arrived just before the
loop began to wait, or was taken by another thread, would be heard only when the wait is over.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

GRACE_S = 18.0
"""How long closing in order may take after the first signal; then the process ends with status 1."""


class Interrupt:
    """What the process does on SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.asked = False
        self._tell: Callable[[], object] | None = None

    @classmethod
    def install(cls) -> Self:
        """Takes over both signals; one that comes before anybody listens is kept."""
        handler = cls()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler)
        return handler

    @classmethod
    def installed(cls) -> Self:
        """The one that `install` made, or a new one."""
        handler = signal.getsignal(signal.SIGTERM)
        return handler if isinstance(handler, cls) else cls.install()

    def listen(self, tell: Callable[[], object]) -> None:
        """``tell`` is called, from the signal handler, at the first signal; at once if it came already."""
        self._tell = tell
        if self.asked:
            tell()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(130)
        self.asked = True
        signal.signal(signal.SIGALRM, _give_up)
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        if self._tell is not None:
            self._tell()


@contextmanager
def waking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """While it is entered, a signal ends the loop's present wait, so that its handler runs at once."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        loop.add_reader(reader, reader.recv, 4096)
        try:
            yield
        finally:
            loop.remove_reader(reader)
            signal.set_wakeup_fd(before)


def _give_up(number: int, frame: FrameType | None) -> None:
    message = f"dynlog: error: closing took more than {GRACE_S:.0f} s after the signal; given up\n"
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())
    os._exit(1)
