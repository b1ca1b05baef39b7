"""Stdin to a file, so that what can be read only once can be read twice."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from typing import IO

PIECE = 1 << 20


async def copy_stdin(file: IO[bytes]) -> None:
    """Copies all of stdin, without blocking the event loop while a pipe gives nothing."""
    fd = sys.stdin.fileno()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    loop = asyncio.get_running_loop()
    while True:
        if not poll.poll(0):  # what is always ready (a file, /dev/null) the event loop refuses to watch
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(fd)
        piece = os.read(fd, PIECE)
        if not piece:
            break
        file.write(piece)
        await asyncio.sleep(0)
    file.flush()
