"""Where a server's program lies: on PATH, else in the cache that ``scripts/servers`` fills; looked for at each call.

The cache is ``$DYNLOG_CACHE``, by default ``~/.cache/dynlog``, and holds ``NAME-VERSION/NAME``; of several versions the
newest counts.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from dynlog.testing.process import ServerNotAvailable


def cache_folder() -> Path:
    """Where programs that were built for tests lie; need not exist."""
    if chosen := os.environ.get("DYNLOG_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynlog"


def find_program(name: str, *, provide: str) -> Path:
    """The program of that name, PATH first; raises ServerNotAvailable, whose message ends with ``provide``."""
    found = shutil.which(name) or _newest_in_cache(name)
    if found is None:
        raise ServerNotAvailable(f"{name} is neither on PATH nor in {cache_folder()}: {provide}")
    return Path(found)


def find_in_cache(name: str, *, provide: str) -> Path:
    """The same for a program of our own making: what goes by its name on PATH is something else."""
    found = _newest_in_cache(name)
    if found is None:
        raise ServerNotAvailable(f"{name} is not in {cache_folder()}: {provide}")
    return found


def _newest_in_cache(name: str) -> Path | None:
    built = cache_folder().glob(f"{name}-*/{name}")
    return max((path for path in built if os.access(path, os.X_OK) and _version(path)), key=_version, default=None)


def _version(program: Path) -> tuple[int, ...]:
    """The numbers in the folder's name, compared as numbers: 2.15.2 is newer than 2.9.30."""
    return tuple(map(int, re.findall(r"\d+", program.parent.name.removeprefix(program.name))))
