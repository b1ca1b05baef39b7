"""`open_log` and `open_objects`: how anyone gets an engine or a store; the URL's scheme decides which.

Each scheme names a module with a function ``open_url(url, clock)``; it is imported here, at run time, so that core
depends on no engine and the base install on no broker's client.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dynlog.errors import MissingDependency, UnknownScheme
from dynlog.log import Log
from dynlog.timing import SYSTEM_CLOCK, Clock
from dynlog.url import Url, parse_url

if TYPE_CHECKING:
    from dynlog.objects import ObjectStore

LOG_ENGINES: Mapping[str, str] = {
    "kafka": "dynlog.storage.kafka_log",
    "memory": "dynlog.storage.memory_log",
    "sqlite": "dynlog.storage.sqlite_log",
    "redis": "dynlog.storage.redis_log",
    "rediss": "dynlog.storage.redis_log",
}
OBJECT_STORES: Mapping[str, str] = {
    "memory": "dynlog.storage.memory_objects",
    "file": "dynlog.storage.file_objects",
    "s3": "dynlog.storage.s3_objects",
}
_EXTRAS = {"rediss": "redis"}


@asynccontextmanager
async def open_log(
    url: str, *, clock: Clock = SYSTEM_CLOCK, defaults: Mapping[str, str] | None = None
) -> AsyncIterator[Log]:
    """Opens the log that the URL names, creating it where the engine can, and closes it at the end of the block.

    ``memory://`` is a log of its own, ``memory://name`` is shared within the process; ``sqlite:///path/events.db`` is a
    file on this host.  ``defaults`` are options that hold where the URL does not say otherwise; messages show the URL
    as it was written.  Raises UnknownScheme, ConfigurationError for unknown options, and what the engine raises.
    """
    parsed = parse_url(url)
    if defaults:
        parsed = replace(parsed, options={**defaults, **parsed.options})
    log: Log = await _engine(parsed, LOG_ENGINES, "log").open_url(parsed, clock)
    async with log:
        yield log


@asynccontextmanager
async def open_objects(url: str, *, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[ObjectStore]:
    """Opens the object store that the URL names and closes it at the end of the block.

    ``memory://`` and ``memory://name`` as for logs; ``file:///path`` is a folder, ``s3://bucket/prefix`` a bucket.
    """
    parsed = parse_url(url)
    store: ObjectStore = await _engine(parsed, OBJECT_STORES, "object store").open_url(parsed, clock)
    async with store:
        yield store


def _engine(url: Url, engines: Mapping[str, str], what: str) -> Any:
    module = engines.get(url.scheme)
    if module is None:
        known = ", ".join(f"{scheme}://" for scheme in engines)
        raise UnknownScheme(f"no {what} goes by {url.scheme}:// (in {url}); known are {known}")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dynlog"):
            raise
        extra = _EXTRAS.get(url.scheme, url.scheme)
        raise MissingDependency(
            f"{url.scheme}:// needs the package {error.name!r}: pip install 'dynlog[{extra}]'"
        ) from None
