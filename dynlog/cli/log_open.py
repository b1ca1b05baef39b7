"""How the commands open a log: one that only looks never makes a log by a slip in its URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from dynlog.errors import DeadlineExceeded
from dynlog.log import Log
from dynlog.objects import ObjectStore
from dynlog.open import open_log, open_objects
from dynlog.url import parse_url

EXISTING: Mapping[str, Mapping[str, str]] = {"sqlite": {"create": "false"}}
"""By scheme, the options that keep opening from creating; a log that lives with a server or process needs none."""
DAMAGED: Mapping[str, Mapping[str, str]] = {"sqlite": {"create": "false", "repair": "true"}}
"""By scheme, the options that open a log although it is damaged."""


@asynccontextmanager
async def open_existing(url: str) -> AsyncIterator[Log]:
    """The log, which must exist; raises what `open_log` raises."""
    async with open_log(url, defaults=_defaults(url, EXISTING)) as log:
        yield log


@asynccontextmanager
async def open_within(
    timeout: float, log: str, objects: str | None = None, *, create: bool = False
) -> AsyncIterator[tuple[Log, ObjectStore | None]]:
    """The log, which must exist unless ``create``, and the object store; raises DeadlineExceeded."""
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(timeout):
                opened = await stack.enter_async_context(open_log(log) if create else open_existing(log))
                store = await stack.enter_async_context(open_objects(objects)) if objects is not None else None
        except TimeoutError:
            raise DeadlineExceeded(
                f"the log was not opened within {timeout:g} s: is it there, and does it answer?"
            ) from None
        yield opened, store


@asynccontextmanager
async def open_damaged(url: str) -> AsyncIterator[Log]:
    """The log, also where damage keeps it from being opened for use; for `Log.verify` and `Log.quarantine` only."""
    async with open_log(url, defaults=_defaults(url, DAMAGED)) as log:
        yield log


def _defaults(url: str, wanted: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The options for its scheme; what the user wrote in the URL goes before them, and messages do not show them."""
    return wanted.get(parse_url(url).scheme, {})
