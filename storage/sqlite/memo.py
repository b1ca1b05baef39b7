"""A row that was read in part is decoded once: what is left of it waits here for the read that goes on.

A row is one append and may be a megabyte; a follower that asks for less at a time would otherwise decode it anew for
every piece.  Rows never change, so a row that is still in the database is still the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from dynlog.codec import Columns

KEPT = 8
"""Rows, of at most the batch limit each; about one per partition that is being read right now."""

Key = tuple[int, int, int, int]
"""Topic, partition, base, log time."""


class RowMemo:
    """The rows last read in part; safe for the readers' threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: OrderedDict[Key, Columns] = OrderedDict()

    def take(self, key: Key) -> Columns | None:
        """The row's records, if they are here; they are here no longer then."""
        with self._lock:
            return self._rows.pop(key, None)

    def keep(self, key: Key, columns: Columns) -> None:
        """Keeps them for the next read, instead of the ones kept longest."""
        with self._lock:
            self._rows[key] = columns
            while len(self._rows) > KEPT:
                self._rows.popitem(last=False)
