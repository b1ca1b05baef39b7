"""A backup is one snapshot of the log with a bell of its own, made while others go on appending."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

from dynlog.drafts import sync_folder
from dynlog.errors import ConfigurationError
from dynlog.storage.sqlite import bell, rows
from dynlog.storage.sqlite.failures import ours
from dynlog.storage.sqlite.location import check_location

STEP_PAGES = 256


def backup(db: sqlite3.Connection, target: Path, identity: str) -> None:
    """Copies what one read transaction sees; raises ConfigurationError if something lies at the target already."""
    check_location(target)
    partial = target.with_name(target.name + ".partial")
    for file in (target, target.with_name(target.name + "-wal"), bell.bell_path(target)):
        if file.exists():
            raise ConfigurationError(f"{file} exists already; a backup goes to a new file")
    partial.unlink(missing_ok=True)
    try:
        with ours(target), closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous = FULL")
            # Within a transaction of its own the source does not change, else each append would start the copy over.
            db.execute("BEGIN")
            commit = rows.Head(*rows.get(db, "head")).commit
            db.backup(copy, pages=STEP_PAGES)
            db.execute("ROLLBACK")
        bell.create(target, uuid.UUID(identity).bytes, commit)
        partial.rename(target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)
