"""Garbage: expired objects, and what crashed puts and forgotten uploads left.  Nothing that can be read is removed.

Every function here blocks, and is called from the store's threads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from dynlog.drafts import is_abandoned
from dynlog.errors import ConfigurationError, ObjectCorrupt
from dynlog.objects import Collected
from dynlog.storage.files.vault import Vault, has_expired

AT_ONCE = 200
"""Sidecars that one step reads."""
MOST_LEFTOVERS = 10_000
"""Leftovers that one collection removes; the next one takes the rest."""


class Collection:
    """One run of garbage collection, in steps: `start`, `step` until it returns None, `finish`."""

    def __init__(self, vault: Vault, now_ms: int, older_than_s: float) -> None:
        self._vault = vault
        self._now_ms = now_ms
        self._before_s = now_ms / 1000 - older_than_s
        self._leftovers: dict[str, Path] = {}
        self._entries = vault.layout.walk(b"")
        self._unreadable = 0
        self._bytes = 0
        self._expired = 0
        self._abandoned = 0

    def start(self) -> None:
        """Notes what is old in ``bodies`` and of no put under way, however slow it is or wrong the clocks are.

        Whatever a sidecar turns out to name is struck off again.
        """
        with os.scandir(self._vault.layout.bodies) as found:
            old = (path for item in found if self._is_old(path := Path(item.path)) and _is_left(path))
            self._leftovers = {path.name: path for path in islice(old, MOST_LEFTOVERS)}

    def step(self) -> list[str] | None:
        """Reads some sidecars; the keys of those that have expired, or None at the end."""
        some = list(islice(self._entries, AT_ONCE))
        if not some:
            return None
        expired = []
        for key, path in some:
            try:
                sidecar = self._vault.read_sidecar(key, path)
            except (ObjectCorrupt, ConfigurationError):
                self._unreadable += 1
                continue
            if sidecar is None:
                continue
            self._leftovers.pop(sidecar.generation, None)
            if has_expired(sidecar.info, self._now_ms):
                expired.append(key)
        return expired

    def deleted(self, size: int | None) -> None:
        """Takes note of an expired object that was deleted (None: it was not)."""
        if size is not None:
            self._expired += 1
            self._bytes += size

    def finish(self) -> Collected:
        """Removes the leftovers.  If a sidecar could not be read, bodies are spared: one may be that object's."""
        for path in self._leftovers.values():
            if self._unreadable and path.suffix == "":
                continue
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                path.unlink()
                self._abandoned += 1
                self._bytes += size
        for folder in self._old_uploads():
            with suppress(FileNotFoundError):  # completed, aborted, or collected by another process just now
                self._bytes += sum(path.stat().st_size for path in folder.iterdir())
            shutil.rmtree(folder, ignore_errors=True)
            self._abandoned += 1
        return Collected(self._expired, self._abandoned, self._bytes)

    def _old_uploads(self) -> Iterator[Path]:
        for folder in list(islice(self._vault.layout.uploads.iterdir(), MOST_LEFTOVERS)):
            with suppress(FileNotFoundError, NotADirectoryError):
                if all(self._is_old(path) for path in (folder, *folder.iterdir())):
                    yield folder

    def _is_old(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime < self._before_s
        except FileNotFoundError:
            return False


def _is_left(path: Path) -> bool:
    """Whether the put that made it is gone; ``.entry`` beside a body is its put's as long as the body is."""
    return is_abandoned(path) and is_abandoned(path.with_suffix(""))
