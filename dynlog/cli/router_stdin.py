"""Stdin to a file, so that what can be read only once can be read twice."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from typing import IO

PIECE = 1 << 20


async def copy_stdin(file: IO[bytes]) -> None:
    """Copies all of stdin, without blocking the event loop while a pipe gives nothing."""
    fd = sys.stdin.fileno()
    waits = not stat.S_ISREG(os.fstat(fd).st_mode)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    if waits:
        loop.add_reader(fd, ready.set)
    try:
        while True:
            if waits:
                await ready.wait()
                ready.clear()
            piece = os.read(fd, PIECE)
            if not piece:
                break
            file.write(piece)
            await asyncio.sleep(0)
    finally:
        if waits:
            loop.remove_reader(fd)
    file.flush()
