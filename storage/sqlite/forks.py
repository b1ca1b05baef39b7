"""A process that was forked while a log was open must not open that log: SQLite would think that it holds locks there.

It holds none (fcntl(2): a child does not inherit record locks), so the parent's close would delete the write-ahead log
that the child goes on writing, and what the child then acknowledges is lost ("How To Corrupt An SQLite Database File",
2.6).  Nothing resets SQLite in the child, so it is refused by name.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from dynlog.errors import ConfigurationError

File = tuple[int, int]
"""Device and inode, which is what SQLite tells files apart by."""

_open: Counter[File] = Counter()
_inherited: set[File] = set()


def refuse_inherited(path: Path) -> None:
    """Raises ConfigurationError if the log was open when this process was forked."""
    try:
        state = path.stat()
    except OSError:
        return
    if (state.st_dev, state.st_ino) in _inherited:
        raise ConfigurationError(
            f"this process was forked while {path} was open, and locks do not survive that: open the log only in the "
            "child, or start the child with spawn instead of fork (multiprocessing.get_context('spawn'))"
        )


def note_open(path: Path) -> File:
    """The log is open from now on, until `note_closed`."""
    state = path.stat()
    file = (state.st_dev, state.st_ino)
    _open[file] += 1
    return file


def note_closed(file: File) -> None:
    """The log was closed, as often as it was opened or not."""
    _open[file] -= 1
    if not _open[file]:
        del _open[file]


def _forked() -> None:
    _inherited.update(_open)
    _open.clear()


os.register_at_fork(after_in_child=_forked)
