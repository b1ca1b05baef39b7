"""The write-ahead log is made long before it is needed: a commit then overwrites, and its fsync costs half as much.

A commit that makes the file longer has the file system write its own journal, too.  etcd and Kafka (``preallocate``)
lay out their log files for the same reason.  SQLite has no option for it, but what a transaction spills into the file
and rolls back stays as space: no reader sees it, a crash leaves frames that were never committed, and the next commit
writes over them.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from dynlog.storage.sqlite.room import Room
from dynlog.storage.sqlite.schema import CHECKPOINT_BYTES

BEGUN_BYTES = 256 << 10
"""Who writes less than this, as commands do, is spared the work."""
NOT_SPILLED_BYTES = 3 << 20
"""More than SQLite keeps of a transaction in its cache (2 MB); the rest of it goes to the file."""


class Ahead:
    """Lays out the write-ahead log of one writer, once; used by its thread, outside of transactions."""

    def __init__(self, db: sqlite3.Connection, room: Room) -> None:
        self._db = db
        self._room = room
        syncs = db.execute("PRAGMA synchronous").fetchone()[0] >= 2  # full
        self._done = not syncs

    def lay_out(self, wal_bytes: int) -> None:
        """Makes the file as long as it is when it starts over, if it is shorter and the disk has plenty of room."""
        if self._done or wal_bytes < BEGUN_BYTES:
            return
        self._done = True
        if wal_bytes >= CHECKPOINT_BYTES or not self._room.plenty:
            return
        # Whatever goes wrong here, the next commit meets and tells.
        with suppress(sqlite3.Error):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "INSERT INTO batches (frame) VALUES (zeroblob(?))", (CHECKPOINT_BYTES + NOT_SPILLED_BYTES,)
                )
            finally:
                if self._db.in_transaction:  # a full disk ends it
                    self._db.execute("ROLLBACK")
