"""What goes where: results to stdout, everything else to stderr; with ``--json`` stdout holds JSON and nothing else.

A row of a table is a line, on a terminal as well; progress is a bar on a terminal and plain lines elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dynlog.cli.app import one_line

PIPE_CHUNK = 4096
"""A pipe that is ready takes this many bytes without blocking (POSIX's PIPE_BUF on Linux; see pipe(7))."""
FILE_CHUNK = 1 << 20
PROGRESS_EVERY_S = 5.0


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    print(json.dumps(value, ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "none") -> None:
    """Rows under headings; numbers stand to the right.  ``empty`` is printed where there are no rows."""
    if not rows:
        print(empty)
        return
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    right = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(headings))]
    widths = [max(len(line[i]) for line in (headings, *cells)) for i in range(len(headings))]
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    for number, line in enumerate((headings, *cells)):
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        text = "  ".join(padded).rstrip()
        print(text if number else f"{bold}{text}{plain}")


def print_facts(facts: Mapping[str, object]) -> None:
    """``name  value`` lines."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {one_line(str(value))}")


def say(message: str) -> None:
    """One line on stderr that is no error."""
    print(f"dynlog: {one_line(message)}", file=sys.stderr, flush=True)


def human_time(time_ms: int) -> str:
    """UTC in ISO 8601 with milliseconds, as ``read --from`` takes it back."""
    try:
        stamp = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms}ms"
    return f"{stamp}.{time_ms % 1000:03d}Z"


def human_bytes(size: float) -> str:
    """``512 B``, ``1.5 KiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """``90s``, ``15m``, ``24h``, ``7d``: the largest unit that divides, as options take it."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"


@contextmanager
def progress(what: str, total: int | None = None, *, unit: str = "records") -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how much is done in all; a bar on a terminal, else a line every few seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    begun = last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_S:
            last = now
            of = f" of {total:,}" if total is not None else ""
            say(f"{what}: {done:,}{of} {unit}, {done / (now - begun):,.0f}/s")

    yield line


class LineOutput:
    """Stdout for streams: a write waits for a slow reader without blocking the event loop, and can be cancelled.

    Raises BrokenPipeError once the reader is gone.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            sys.stdout.flush()
            fd = sys.stdout.fileno()
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        mode = os.fstat(fd).st_mode
        self._is_pipe = stat.S_ISFIFO(mode)
        self._cut = FILE_CHUNK if stat.S_ISREG(mode) else PIPE_CHUNK

    async def write(self, data: bytes) -> None:
        """Writes all of it; a cancelled write may have written a part."""
        view = memoryview(data)
        while view:
            if not self._poll.poll(0):
                await self._writable()
            try:
                view = view[os.write(self._fd, view[: self._cut]) :]
            except BlockingIOError:  # somebody else who shares the pipe made it non-blocking
                await self._writable()

    async def reader_gone(self) -> None:
        """Waits until the reader of a pipe went away and raises BrokenPipeError: an idle stream would not notice."""
        gone = asyncio.Event()
        if self._is_pipe:
            # The write end of a pipe becomes "readable" only by the error that its last reader leaves behind.
            asyncio.get_running_loop().add_reader(self._fd, gone.set)
        try:
            await gone.wait()
        finally:
            if self._is_pipe:
                asyncio.get_running_loop().remove_reader(self._fd)
        raise BrokenPipeError("the reader of the output went away")

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._fd)
