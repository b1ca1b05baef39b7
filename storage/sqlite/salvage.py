"""When SQLite's own pages are damaged or gone, every row that can still be reached is copied and the file built anew.

The new content goes in through SQLite's backup interface, in one transaction under its locks, so that other processes
that have the log open see either the old pages or the new ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from dynlog.errors import LogUnavailable
from dynlog.storage.sqlite.pages import Pages
from dynlog.storage.sqlite.schema import APPLICATION_ID, FORMAT, SET_ASIDE, TABLES

_SHAPES: dict[str, tuple[type, ...]] = {
    "docs": (str, bytes),
    "batches": (int, int, int, int, int, int, bytes),
    "quarantine": (object,) * 10,
}


@contextmanager
def rebuilt(db: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """A new database of what can be read of ``db``, whose content it replaces once the block ends without an error."""
    raw, fresh = (path.with_name(path.name + suffix) for suffix in (".salvage-pages", ".salvage"))
    _remove(raw, fresh)
    try:
        before = _version(db)
        with closing(sqlite3.connect(raw, isolation_level=None)) as copy:
            db.backup(copy)
        with closing(sqlite3.connect(fresh, isolation_level=None)) as new:
            new.execute(f"PRAGMA page_size = {db.execute('PRAGMA page_size').fetchone()[0]}")
            new.execute("PRAGMA auto_vacuum = INCREMENTAL")
            new.execute("PRAGMA synchronous = OFF")
            new.execute("BEGIN")
            for statement in (*TABLES, SET_ASIDE):
                new.execute(statement)
            new.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            new.execute(f"PRAGMA user_version = {FORMAT}")
            with Pages(raw) as pages:
                for name, root in db.execute(
                    "SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"
                ).fetchall():
                    if shape := _SHAPES.get(name):
                        marks = ", ".join("?" * len(shape))
                        new.executemany(f"INSERT OR IGNORE INTO {name} VALUES ({marks})", _rows(pages, root, shape))
            new.execute("COMMIT")
            raw.unlink()
            yield new
            if _version(db) != before:
                raise LogUnavailable(f"another process wrote to {path} meanwhile: stop it, then repair again")
            new.backup(db)
    finally:
        _remove(raw, fresh)


def _rows(pages: Pages, root: int, shape: tuple[type, ...]) -> Iterator[list[Any]]:
    for values in pages.records(root):
        if len(values) == len(shape) and all(map(isinstance, values, shape)):
            yield values


def _version(db: sqlite3.Connection) -> int:
    """Changes with every commit of another connection."""
    version: int = db.execute("PRAGMA data_version").fetchone()[0]
    return version


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)
        file.with_name(file.name + "-journal").unlink(missing_ok=True)
