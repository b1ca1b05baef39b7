"""The local side of a folder that is stored or brought back: what is there, and how files get there safely."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NamedTuple

from dynlog.blocking import BlockingPool
from dynlog.drafts import Draft, make_folders, sync_folder
from dynlog.errors import ConfigurationError
from dynlog.objects import PIECE_BYTES, STALE_AFTER_S

_PART = re.compile(r"\.dynlog-[0-9a-f]{16}\.part")


class Plan(NamedTuple):
    """Files by path, with their sizes now, and folders that no file lies below."""

    sizes: dict[str, int]
    empty_folders: tuple[str, ...]


def plan_of(root: Path) -> Plan:
    """What there is to store, in the order of the paths; raises ConfigurationError for what cannot be stored."""
    if not root.is_dir():
        raise ConfigurationError(f"{root} is not a folder")
    sizes: dict[str, int] = {}
    empty: list[str] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        entries = list(folder.iterdir())
        if not entries and folder != root:
            empty.append(folder.relative_to(root).as_posix())
        for entry in entries:
            name = entry.relative_to(root).as_posix()
            if _PART.fullmatch(entry.name):
                continue  # a download that was killed left it
            if entry.is_dir() and not entry.is_symlink():
                pending.append(entry)
            elif entry.is_file():
                sizes[name] = entry.stat().st_size
            else:
                raise ConfigurationError(
                    f"{entry} is neither a file, nor a link to one, nor a folder: leave it out (links to folders are "
                    "not followed)"
                )
    return Plan({name: sizes[name] for name in sorted(sizes)}, tuple(sorted(empty)))


class LocalFile:
    """A file that is read in the pool's threads, from the start each time."""

    def __init__(self, pool: BlockingPool, path: Path) -> None:
        self._pool = pool
        self._path = path

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Its bytes; raises ConfigurationError if it cannot be read, or changes meanwhile."""
        at = 0
        before: tuple[int, ...] | None = None
        while True:
            state, piece = await self._pool.run(self._read, at)
            if before is not None and state != before:  # the end is read as well, so the last piece is looked at, too
                raise ConfigurationError(
                    f"{self._path} was changed while it was being read: let it rest, and try again"
                )
            if not piece:
                return
            yield piece
            before, at = state, at + len(piece)

    def _read(self, at: int) -> tuple[tuple[int, ...], bytes]:
        try:
            with self._path.open("rb") as file:
                state = os.fstat(file.fileno())
                file.seek(at)
                return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns), file.read(PIECE_BYTES)
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._path}: {error.strerror}") from error

    async def sha256(self) -> tuple[int, str]:
        """Its size and digest."""
        digest, size = hashlib.sha256(), 0
        pieces = self.pieces()
        async with aclosing(pieces):
            async for piece in pieces:
                await self._pool.run(digest.update, piece)
                size += len(piece)
        return size, digest.hexdigest()


def make_folders_inside(root: Path, folder: Path) -> None:
    """Makes the folder; raises ConfigurationError if a link on the way down from ``root`` could lead elsewhere."""
    step = root
    for part in folder.relative_to(root).parts:
        step /= part
        if step.is_symlink():
            raise ConfigurationError(f"{step} is a link: files of the stored folder would be written where it leads")
    try:
        make_folders(folder)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {folder}: {error.strerror}") from error


def has_size(target: Path, size: int) -> bool:
    """Whether a file of that size is here; raises ConfigurationError if something that is no file has its name."""
    if target.is_symlink() or not target.exists():
        return False  # a link is replaced by a file of the folder's own
    if not target.is_file():
        raise ConfigurationError(f"{target} is in the way: a file of the stored folder has this name; move it away")
    return target.stat().st_size == size


def part_beside(target: Path) -> Path:
    """A name for the file while it is coming in."""
    return target.parent / f".dynlog-{os.urandom(8).hex()}.part"


def put_in_place(draft: Draft, target: Path) -> None:
    """Makes a written draft the file, durably; parts beside it that were abandoned go."""
    draft.sync()
    draft.path.rename(target)
    draft.keep()
    sync_folder(target.parent)
    for path in target.parent.glob(".dynlog-*.part"):
        with suppress(FileNotFoundError):
            if _PART.fullmatch(path.name) and path.stat().st_mtime < time.time() - STALE_AFTER_S:
                path.unlink()
