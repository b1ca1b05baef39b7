"""When SQLite's own pages are damaged, every row that can still be reached is copied and the file is built anew.

The new content goes in through SQLite's backup interface, in one transaction under its locks, so that other processes
that have the log open see either the old pages or the new ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from dynlog.storage.sqlite.schema import APPLICATION_ID, FORMAT, TABLES

MOST_ROWS = 1 << 48


def rebuild(db: sqlite3.Connection, path: Path) -> None:
    """Replaces the content of ``db`` by what can be read of it."""
    fresh = path.with_name(path.name + ".salvage")
    fresh.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(fresh, isolation_level=None)) as new:
            new.execute(f"PRAGMA page_size = {db.execute('PRAGMA page_size').fetchone()[0]}")
            new.execute("PRAGMA auto_vacuum = INCREMENTAL")
            new.execute("PRAGMA synchronous = OFF")
            new.execute("BEGIN")
            for statement in TABLES:
                new.execute(statement)
            new.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            new.execute(f"PRAGMA user_version = {FORMAT}")
            new.executemany("INSERT OR IGNORE INTO docs VALUES (?, ?)", _docs(db))
            new.executemany("INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)", _batches(db, 0, MOST_ROWS))
            new.execute("COMMIT")
            new.backup(db)
    finally:
        fresh.unlink(missing_ok=True)


def _docs(db: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """From both ends, each as far as it goes."""
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError):
            yield from db.execute(f"SELECT key, frame FROM docs WHERE key IS NOT NULL ORDER BY key {order}")


def _batches(db: sqlite3.Connection, low: int, high: int) -> Iterator[tuple[Any, ...]]:
    """The rows with rowids ``low <= id < high``; around damaged pages by halving."""
    try:
        yield from db.execute(
            "SELECT topic, partition, base, next, log_time_ms, before, frame FROM batches NOT INDEXED"
            " WHERE rowid >= ? AND rowid < ? ORDER BY rowid",
            (low, high),
        )
    except sqlite3.DatabaseError:
        if high - low > 1:
            middle = (low + high) // 2
            yield from _batches(db, low, middle)
            yield from _batches(db, middle, high)
