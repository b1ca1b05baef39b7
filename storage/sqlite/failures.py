"""One place where SQLite's errors become ours: what cannot be explained otherwise is damage, never a surprise."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynlog.errors import ConfigurationError, DynlogError, LogCorrupt, LogFull, LogUnavailable, NotALog

ADVICE = "run 'dynlog log verify', then 'dynlog log repair'"
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for what Python's wrapper raised by itself (text that is not UTF-8)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translated(error: sqlite3.Error, path: Path) -> DynlogError:
    """The error that says what happened to the log at ``path``, and what to do."""
    match code_of(error):
        case sqlite3.SQLITE_FULL:
            return LogFull(f"no space is left for {path}: nothing was stored; free some and go on")
        case sqlite3.SQLITE_IOERR:
            return LogUnavailable(
                f"the system failed to read or write {path} ({error}): check the disk, then reopen the log"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LogUnavailable(f"another process keeps {path} locked; try again")
        case sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_PROTOCOL | sqlite3.SQLITE_INTERRUPT | sqlite3.SQLITE_SCHEMA:
            return LogUnavailable(f"{path} cannot be used right now ({error}): nothing is damaged, try again")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return ConfigurationError(f"{path} or its folder cannot be written ({error}): check the permissions")
        case sqlite3.SQLITE_CANTOPEN:
            return ConfigurationError(f"{path} cannot be opened ({error}): check that it and its folder may be written")
        case sqlite3.SQLITE_NOTADB:
            return NotALog(f"{path} is not a dynlog log, nor any SQLite database")
        case _:
            return LogCorrupt(f"{path} is damaged ({error}): {ADVICE}")


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """Turns SQLite's errors in the block into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path) from error
    except UnicodeDecodeError as error:
        # Python fails to decode SQLite's message, which quotes a damaged schema.
        raise LogCorrupt(f"the schema of {path} is damaged ({error}); restore a backup") from error
