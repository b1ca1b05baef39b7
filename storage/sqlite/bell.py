"""The bell: a small file beside the log that knows how far the log had come when an append was last acknowledged.

SQLite reads a damaged frame in its write-ahead log as a torn tail and drops what follows *in silence*.  So the writer
stores its commit number here after each COMMIT and before acknowledging; a database that is behind its bell has lost
acknowledged records.  Writing it also wakes readers in other processes (`dynlog.storage.sqlite.waiters`).

    two slots of 512 bytes, written in turn:  magic "DLBL" | version u8 | 3 zero bytes | identity 16 bytes
                                              | commit u64 | crc32c u32                          (little-endian)
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from dynlog.errors import LogUnavailable, OutcomeUnknown

SLOT = struct.Struct("<4sB3x16sQI")
SLOT_BYTES = 512
"""A sector: a torn write damages one slot, never both."""
MAGIC, VERSION = b"DLBL", 1
FIRST_COMMIT = 1
LOCK_PATIENCE_S = 10.0


class Reading(NamedTuple):
    """What the bell says: whose it is, and the newest commit that was acknowledged."""

    identity: bytes
    commit: int


class Broken(Enum):
    """Why the bell says nothing."""

    MISSING = "is missing"
    SIZE = f"has not its {2 * SLOT_BYTES} bytes"
    DAMAGED = "is damaged in both slots"


def bell_path(path: Path) -> Path:
    """Where the bell of the log at ``path`` lies."""
    return path.with_name(path.name + "-bell")


def parse(data: bytes) -> Reading | Broken:
    """The newer of the slots that verify: a single torn slot falls back to the other one."""
    if len(data) != 2 * SLOT_BYTES:
        return Broken.SIZE
    readings = [r for at in (0, SLOT_BYTES) if (r := _slot(data[at : at + SLOT.size])) is not None]
    return max(readings, key=lambda reading: reading.commit) if readings else Broken.DAMAGED


def look(path: Path) -> Reading | Broken:
    """Reads the bell of the log at ``path`` without opening it for writing."""
    try:
        return parse(bell_path(path).read_bytes())
    except FileNotFoundError:
        return Broken.MISSING


def create(path: Path, identity: bytes, commit: int) -> None:
    """Makes a new bell, durably, in the place of whatever is there."""
    target = bell_path(path)
    fresh = target.with_name(target.name + ".new")
    slot = _pack(identity, commit).ljust(SLOT_BYTES, b"\0")
    with fresh.open("wb") as file:
        file.write(slot * 2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Bell:
    """The open bell of one log; used by its writer thread, and read by anyone."""

    def __init__(self, path: Path, identity: bytes, *, may_be_missing: bool = False) -> None:
        """Raises OSError."""
        self._identity = identity
        self._fd = -1
        try:
            self._fd = os.open(bell_path(path), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if not may_be_missing:
                raise
        self._names = (os.fspath(path), os.fspath(bell_path(path)))
        self._files = _files(self._names)
        self._known: tuple[bytes, int | None] = (b"", None)
        """What the file held when it was last looked at, and the commit that this says."""

    def ring(self, commit: int) -> None:
        """Stores the commit number; a slower process never turns the bell back.

        Raises OSError, LogUnavailable if log or bell are no longer the files that were opened (whatever is written to
        those, nobody will find), and OutcomeUnknown if another process keeps the bell locked: one that was stopped.
        Nothing is wrong then, and the next commit that rings says this one, too.
        """
        if _files(self._names) != self._files:
            raise LogUnavailable("the log or its bell was deleted, moved or replaced while it was open")
        give_up = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise OutcomeUnknown(
                        f"it was stored, but for {LOCK_PATIENCE_S:g} s another process kept {self._names[1]} locked, "
                        "so damage to the tail might go unnoticed now: is one stopped? Repeat it under the same marks"
                    ) from None
                time.sleep(0.0002)
        try:
            data = self._data()
            # Mostly nobody else has rung since, and what was written here needs no second look.
            known = self._known[1] if data == self._known[0] else _commit_of(data)
            if known is None or known < commit:
                slot, at = _pack(self._identity, commit), SLOT_BYTES * (commit % 2)
                os.pwrite(self._fd, slot, at)
                self._known = (data[:at] + slot + data[at + len(slot) :], commit)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def read(self) -> int | None:
        """The newest commit that rang, or None if the file was damaged since it was opened."""
        if self._fd < 0:
            return None
        return _commit_of(self._data())

    def _data(self) -> bytes:
        return os.pread(self._fd, 2 * SLOT_BYTES + 1, 0)

    def close(self) -> None:
        """Closes the file."""
        if self._fd >= 0:
            os.close(self._fd)


def _commit_of(data: bytes) -> int | None:
    reading = parse(data)
    return None if isinstance(reading, Broken) else reading.commit


def _files(names: Iterable[str]) -> list[tuple[int, int] | None]:
    """Which files the log and its bell are; asked at every commit, so without `Path`."""
    found: list[tuple[int, int] | None] = []
    for name in names:
        try:
            state = os.stat(name)  # noqa: PTH116
            found.append((state.st_dev, state.st_ino))
        except FileNotFoundError:
            found.append(None)
    return found


def _pack(identity: bytes, commit: int) -> bytes:
    body = SLOT.pack(MAGIC, VERSION, identity, commit, 0)[:-4]
    return body + struct.pack("<I", google_crc32c.value(body))


def _slot(data: bytes) -> Reading | None:
    magic, version, identity, commit, crc = SLOT.unpack(data)
    if magic != MAGIC or version != VERSION or google_crc32c.value(data[:-4]) != crc:
        return None
    return Reading(identity, commit)
