"""Stdin as lines, taken as they come: a line is given out as soon as its line break has been read.

Lines are bytes without the line feed (a carriage return stays); what follows the last line feed is a line of its own at
the end of the input, but not when taking is stopped: then it is unfinished and was never taken.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator

from dynlog.cli.run import until_stopped
from dynlog.errors import DynlogError

CHUNK = 1 << 16


class LineRefused(DynlogError):
    """A line of the input that was not, or may not have been, stored; the message begins with its number."""


class LineInput:
    """Reads lines of at most ``max_bytes`` from a descriptor."""

    def __init__(self, fd: int, max_bytes: int) -> None:
        self._fd = fd
        self._max_bytes = max_bytes
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._rest = bytearray()
        self._taken = 0

    @property
    def unfinished(self) -> int:
        """Bytes that were read and belong to no line that was given out."""
        return len(self._rest)

    async def chunks(self, stop: asyncio.Event) -> AsyncIterator[list[bytes]]:
        """The lines of each read, until the input ends or ``stop`` is set.

        Raises LineRefused as soon as a line is too long; the lines before it were given out.
        """
        while await until_stopped(self._readable(), stop) is not None:
            read = os.read(self._fd, CHUNK)
            if not read:
                if self._rest:
                    yield [bytes(self._rest)]
                    self._rest.clear()
                return
            head, feed, tail = read.rpartition(b"\n")
            if feed:
                lines = (bytes(self._rest) + head).split(b"\n")
                self._rest = bytearray(tail)
                self._taken += len(lines)
                yield lines
            else:
                self._rest += tail
            if len(self._rest) > self._max_bytes:
                raise LineRefused(
                    f"line {self._taken + 1}: more than the {self._max_bytes} bytes that one record may have, it was "
                    "not taken; put large bodies into an object store"
                )

    async def _readable(self) -> None:
        # A descriptor that is ready all the time (a file) must not keep the event loop from everybody else.
        await asyncio.sleep(0)
        if self._poll.poll(0):
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._fd)
