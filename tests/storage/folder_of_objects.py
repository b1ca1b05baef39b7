"""What a test of the file store sees when it looks into the folder."""

from __future__ import annotations

from pathlib import Path


def files(root: Path) -> dict[str, bytes]:
    """Every file of the store that is not a lock, by its path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "locks" not in path.parts
    }


def foreign(root: Path) -> dict[str, bytes]:
    """What another tool sees: the files outside the hidden folder."""
    return {name: content for name, content in files(root).items() if not name.startswith(".dynlog/")}


def only(root: Path, pattern: str) -> Path:
    (path,) = root.glob(pattern)
    return path
