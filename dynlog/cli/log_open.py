"""How the commands open a log: one that only looks never makes a log by a slip in its URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dynlog.errors import LogUnavailable
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.url import Url, parse_url

FILE_SCHEMES = frozenset({"sqlite"})
"""Engines whose log is a file, which opening would create."""


@asynccontextmanager
async def open_existing(url: str) -> AsyncIterator[Log]:
    """The log, which must exist: LogUnavailable otherwise."""
    _check_exists(parse_url(url))
    async with open_log(url) as log:
        yield log


@asynccontextmanager
async def open_damaged(url: str) -> AsyncIterator[Log]:
    """The log, also where damage keeps it from being opened for use; for `Log.verify` and `Log.quarantine` only."""
    parsed = parse_url(url)
    _check_exists(parsed)
    if parsed.scheme in FILE_SCHEMES and "repair" not in parsed.options:
        url += ("&" if "?" in url else "?") + "repair=true"
    async with open_log(url) as log:
        yield log


def _check_exists(url: Url) -> None:
    if url.scheme not in FILE_SCHEMES or url.host:
        return
    path = Path(url.path[1:] if url.path.startswith("/./") else url.path)
    if not path.exists():
        raise LogUnavailable(f"there is no log at {path}: check the URL {url}, or make one with 'dynlog log create'")
