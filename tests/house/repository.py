"""The repository as git knows it: what is tracked, and a clean copy of it to build from."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LINKED = ("storage", "adapters", "migrations")
"""Folders at the top that are imported as dynlog.<name> through a symlink."""


@cache
def tracked_files() -> tuple[Path, ...]:
    """Paths relative to the repository of what is tracked and still there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    paths = [Path(name) for name in listed.stdout.split("\0") if name]
    return tuple(path for path in paths if (REPOSITORY / path).is_symlink() or (REPOSITORY / path).exists())


def package_modules() -> list[Path]:
    """Tracked modules that a user can import, as they lie in the repository."""
    return [path for path in tracked_files() if path.suffix == ".py" and path.parts[0] in ("dynlog", *LINKED)]


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def clean_copy(target: Path) -> Path:
    """The tracked files as they are in the working tree, symlinks as symlinks, nothing else."""
    for path in tracked_files():
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / path, copy, follow_symlinks=False)
    return target
