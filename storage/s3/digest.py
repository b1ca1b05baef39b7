"""The SHA-256 of a body that is being read: one thread hashes what came while another waits for the next bytes."""

from __future__ import annotations

import hashlib
import threading
from collections import deque

from dynlog.storage.s3.work import Work

HASHED_TOGETHER = 4
"""Pieces that are worth waking a thread for; few, since what was just read is still in the processor's cache."""
MOST_WAITING = 16


class Digest:
    """Takes pieces in their order from whichever thread reads; never holds more than `MOST_WAITING` of them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sha256 = hashlib.sha256()
        self._waiting: deque[bytes] = deque()
        self._in_order = threading.Lock()
        self._state = threading.Lock()
        self._helped = False

    def take(self, piece: bytes) -> None:
        """Has the piece hashed, by this thread if the other one does not keep up."""
        self._waiting.append(piece)
        while len(self._waiting) > MOST_WAITING:
            self._hash_next()
        if len(self._waiting) >= HASHED_TOGETHER:
            with self._state:
                helped, self._helped = self._helped, True
            if not helped:
                self._work.compute_soon(self._help)

    def _help(self) -> None:
        while True:
            while self._hash_next():
                pass
            with self._state:
                if len(self._waiting) < HASHED_TOGETHER:
                    self._helped = False
                    return

    def _hash_next(self) -> bool:
        """Hashes the first piece that waits; False if there is none, and then none is being hashed either."""
        with self._in_order:
            try:
                piece = self._waiting.popleft()
            except IndexError:
                return False
            self._sha256.update(piece)
            return True

    def finish(self) -> None:
        """Returns once all that was taken is hashed."""
        while self._hash_next():
            pass

    def hexdigest(self) -> str:
        """The digest; after `finish`."""
        return self._sha256.hexdigest()

    def drop(self) -> None:
        """Nobody wants the digest any more."""
        self._waiting.clear()
