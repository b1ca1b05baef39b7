"""Files that are not there yet: written, checksummed and synced under a name that means nothing until it is renamed.

Every function here blocks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path


class Draft:
    """A file that is being written; `discard` takes it away unless it was kept.  Making one touches no disk.

    It is locked (flock) from `open` to `discard`, so that others tell it from what a crash left (`is_abandoned`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._descriptor: int | None = None
        self._kept = False

    @property
    def sha256(self) -> str:
        """Hex digest of what was written."""
        return self._sha256.hexdigest()

    def open(self) -> None:
        """Creates the file."""
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def write(self, piece: bytes | memoryview) -> None:
        """Adds a piece."""
        self._sha256.update(piece)
        self._write(piece)
        self.size += len(piece)

    def write_footer(self, footer: bytes) -> None:
        """Adds what counts neither for the size nor for the digest."""
        self._write(footer)

    def _write(self, piece: bytes | memoryview) -> None:
        assert self._descriptor is not None, "write before open"
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def sync(self) -> None:
        """Makes it durable."""
        assert self._descriptor is not None, "sync before open"
        os.fsync(self._descriptor)

    def keep(self) -> None:
        """From now on somebody else answers for the file."""
        self._kept = True

    def discard(self) -> None:
        """Closes it, and removes it unless it was kept; harmless in every state."""
        self._close()
        if not self._kept:
            with suppress(OSError):  # what cannot be removed now is for garbage collection
                self.path.unlink()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether nobody has the draft at this path open any more; a file that is gone is nobody's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def write_durably(path: Path, content: bytes) -> None:
    """Writes a small new file and syncs it; leaves nothing if that fails."""
    draft = Draft(path)
    try:
        draft.open()
        draft.write(content)
        draft.sync()
        draft.keep()
    finally:
        draft.discard()


def sync_folder(folder: Path) -> None:
    """Makes the folder's names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """The folder and those above it, each durable before what lies in it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def rename_into(source: Path, target: Path) -> None:
    """Renames into a folder that is made if need be, and makes it durable."""
    for attempt in range(RENAME_ATTEMPTS):
        try:
            make_folders(target.parent)
            source.rename(target)
            break
        except FileNotFoundError:
            # Whoever deleted the folder's last object removes the empty folder: make it again.
            if attempt == RENAME_ATTEMPTS - 1 or not source.exists():
                raise
    sync_folder(target.parent)


RENAME_ATTEMPTS = 100


def prune(folder: Path, stop: Path) -> None:
    """Removes the folder and those above it, below ``stop``, that are empty."""
    with suppress(OSError):
        while folder != stop and stop in folder.parents:
            folder.rmdir()
            folder = folder.parent
