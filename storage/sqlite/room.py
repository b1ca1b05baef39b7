"""A full disk has to be freed by truncation, and that needs space itself: the last of it is not given to appends.

Truncating writes to the write-ahead log, which starts over only once all of it has moved into the database, which
grows.  So an append is refused while there is less room than that takes; where other programs use up the rest, they
have to give some back.  A disk with plenty of room is looked at ten times a second, any other one at every commit.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

MARGIN_BYTES = 256 << 10
"""What a truncation appends to the write-ahead log before it may start that over, with room to spare."""
PLENTY_BYTES = 4 << 30
PLENTY_S = 0.1
"""Nobody writes so much in so short a time."""


class Room:
    """Looks at the disk below one log; used by its writer thread, outside of transactions."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._folder = os.fspath(path.parent)
        self._wal = os.fspath(path.with_name(path.name + "-wal"))
        self._db = db
        self._page: int = db.execute("PRAGMA page_size").fetchone()[0]
        self._plenty_until = 0.0

    @property
    def plenty(self) -> bool:
        """Whether the disk had plenty of room when it was last looked at."""
        return self._plenty_until > 0.0

    def is_there(self, size: int) -> bool:
        """Whether ``size`` bytes can be appended so that a truncation is possible afterwards."""
        now = time.monotonic()
        if now < self._plenty_until:
            return True
        need = size + MARGIN_BYTES
        waiting = self.wal_bytes()
        free = self._free()
        if free >= need + waiting + PLENTY_BYTES:
            self._plenty_until = now + PLENTY_S
        else:
            self._plenty_until = 0.0
        if free >= need + waiting:
            return True
        with suppress(sqlite3.Error):
            _, frames, moved = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            waiting = (frames - moved) * self._page
        return self._free() >= need + waiting

    def wal_bytes(self) -> int:
        """The size of the write-ahead log's file; asked at every commit, so without `Path`."""
        try:
            return os.stat(self._wal).st_size  # noqa: PTH116
        except OSError:
            return 0

    def _free(self) -> int:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return 1 << 62  # whoever writes finds out
        return disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)
