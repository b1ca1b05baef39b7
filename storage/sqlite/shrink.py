"""Space that deleted rows took goes back to the system, in steps between which others write.

Moving pages changes nothing that a read returns, so it neither counts as a commit nor rings the bell.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from dynlog.storage.sqlite.failures import BUSY, code_of
from dynlog.storage.sqlite.options import Settings
from dynlog.storage.sqlite.schema import connect

STEP_PAGES = 1024
LOOSE_PAGES = 4096
"""Automatic retention leaves so many free pages to be used again; an explicit truncation leaves none."""


def free_pages(db: sqlite3.Connection) -> int:
    """Pages of the file that nothing uses."""
    free: int = db.execute("PRAGMA freelist_count").fetchone()[0]
    return free


def shrink_step(path: Path, settings: Settings, keep_pages: int) -> bool:
    """Gives some free pages back, and shortens the files with the last of them; whether there is more to do."""
    with closing(connect(path, "rw", settings)) as db:
        free = free_pages(db)
        try:
            if free > keep_pages:
                # A script, since a single statement of Python's steps only once: that is one page.
                _vacuum(db, min(STEP_PAGES, free - keep_pages))
                if free_pages(db) < free:
                    return True
            # The first lets others go on; the second then has little left to do while it keeps them waiting.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            db.execute("PRAGMA busy_timeout = 100")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            if code_of(error) not in BUSY:
                raise
        return False


def make_room(path: Path, settings: Settings) -> None:
    """Moves the write-ahead log into the database, so that it starts over with the space that it has."""
    with closing(connect(path, "rw", settings)) as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _vacuum(db: sqlite3.Connection, pages: int) -> None:
    """Moves the last pages into free ones; where the disk is too full for it, a few at a time."""
    while True:
        try:
            db.executescript(f"PRAGMA incremental_vacuum({pages})")
            return
        except sqlite3.OperationalError as error:
            if code_of(error) != sqlite3.SQLITE_FULL or pages == 1:
                raise
        pages = max(pages // 16, 1)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
