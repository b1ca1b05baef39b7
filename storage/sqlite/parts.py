"""What opening a SQLite log makes, in one go and in a thread: all of it, or nothing is left open."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path
from typing import NamedTuple

from dynlog.errors import ConfigurationError
from dynlog.storage.sqlite.bell import Bell
from dynlog.storage.sqlite.forks import File, note_closed, note_open, refuse_inherited
from dynlog.storage.sqlite.options import Settings
from dynlog.storage.sqlite.schema import connect_writer, opened


class Parts(NamedTuple):
    """What opening made; the log closes them."""

    identity: str
    file: File
    bell: Bell
    reader: sqlite3.Connection
    writer: sqlite3.Connection

    def close(self) -> None:
        """Closes everything that no log took over."""
        self.reader.close()
        self.writer.close()
        self.bell.close()
        note_closed(self.file)


def open_parts(path: Path, settings: Settings) -> Parts:
    """Opens or creates the log's files; blocks."""
    refuse_inherited(path)
    with opened(path, settings) as (identity, reader):
        try:
            bell = Bell(path, uuid.UUID(identity).bytes, may_be_missing=settings.repair)
        except OSError as error:
            raise ConfigurationError(f"the bell of {path} cannot be opened for writing: {error}") from None
        try:
            writer = connect_writer(path, settings)
            return Parts(identity, note_open(path), bell, reader, writer)
        except BaseException:
            bell.close()
            raise
