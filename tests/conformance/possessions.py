"""What a process holds at one moment, for tests that nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

LOOPS_OWN_THREADS = ("asyncio_", "uvloop_")
"""How the names of the threads in a loop's own pool begin: they come as they are needed, and stay."""


def possessions() -> tuple[int, int, int]:
    """(tasks, threads that are not the loop's own pool, open file descriptors) of this process."""
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith(LOOPS_OWN_THREADS)]
    return len(asyncio.all_tasks()), len(threads), descriptors()


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
