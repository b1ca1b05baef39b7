"""What is known of objects: one by name, or page by page; what is not ours, or has expired, is not there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple

from dynlog.errors import ObjectCorrupt, ObjectNotFound
from dynlog.objects import ObjectInfo
from dynlog.storage.s3.description import Reference, id_of, info_of, noted
from dynlog.storage.s3.failures import Refused
from dynlog.storage.s3.work import Window, Work

AT_ONCE = 6
LISTED_TOGETHER = 60
"""So many objects of a page are asked about before the first of them is handed out."""
ATTEMPTS = 5


class Found(NamedTuple):
    """An object as it is now; ``etag`` is the server's mark of this very body."""

    info: ObjectInfo
    etag: str
    id: str
    xxh3: str


async def look(work: Work, name: str, key: str, timeout: float) -> Found:
    """The object under the name, expired or not; raises ObjectNotFound, and ObjectCorrupt if it is not one of ours."""
    for _ in range(ATTEMPTS):
        headers = await work.ask(f"head of {key!r}", key, timeout, work.client.head, name)
        found = await understand(work, key, headers, timeout)
        if found is not None:
            return found
    raise ObjectCorrupt(
        "its note, which holds its SHA-256, is missing or damaged: put it again", store=work.store, key=key
    )


async def understand(work: Work, key: str, headers: Mapping[str, str], timeout: float) -> Found | None:
    """What the headers of an answer say; None if they name a note that is not there (any more)."""
    size = int(headers.get("content-length") or 0)
    known = info_of(key, size, headers)
    if known is None:
        raise ObjectCorrupt(
            "something else than dynlog put this object, it has no SHA-256 to verify it by: put it again by dynlog",
            store=work.store, key=key,
        )  # fmt: skip
    if isinstance(known, Reference):
        # Whoever replaces the object may remove the old note between two requests: the caller looks again then.
        try:
            with work.translating(key):
                note = await work.ask_raw(f"note of {key!r}", timeout, work.client.read, known.note)
        except ObjectNotFound:
            return None
        known = noted(key, size, note.body)
        if known is None:
            return None
    return Found(known.info, headers.get("etag", ""), id_of(headers), known.xxh3)


def has_expired(info: ObjectInfo, now_ms: int) -> bool:
    """Whether it is not there any more."""
    return info.expires_ms is not None and info.expires_ms <= now_ms


def check_there(work: Work, found: Found) -> Found:
    """The same; raises ObjectNotFound if it has expired."""
    if has_expired(found.info, work.clock.time_ms()):
        raise ObjectNotFound("no such object: it has expired", store=work.store, key=found.info.key)
    return found


async def names(work: Work, prefix: str, timeout: float) -> AsyncGenerator[list[tuple[str, int]], None]:
    """Names that begin with the prefix, with their sizes, page by page in their order."""
    token = None
    while True:
        page = await work.ask(f"list of {prefix!r}", None, timeout, work.client.page, prefix, token)
        yield page.entries
        token = page.token
        if token is None:
            return


async def listing(work: Work, prefix: str, timeout: float) -> AsyncGenerator[Found, None]:
    """All objects of ours whose keys begin with the prefix, in their order, expired ones too."""
    own = work.names.own("")
    async for page in names(work, work.names.beginning(prefix), timeout):
        keys = [
            (name, key)
            for name, _ in page
            if not (name.startswith(own) and name[len(own) : len(own) + 1] not in ("0", "1", "2"))
            and (key := work.names.key(name)) is not None
        ]
        for at in range(0, len(keys), LISTED_TOGETHER):
            for found in await look_together(work, keys[at : at + LISTED_TOGETHER], timeout):
                yield found


async def look_together(work: Work, keys: list[tuple[str, str]], timeout: float) -> list[Found]:
    """Those of the objects that are there and ours."""
    async with Window[Found | None](AT_ONCE) as window:
        for name, key in keys:
            await window.add(_look_or_none(work, name, key, timeout))
        return [found for found in await window.rest() if found is not None]


async def _look_or_none(work: Work, name: str, key: str, timeout: float) -> Found | None:
    try:
        return await look(work, name, key, timeout)
    except (ObjectNotFound, ObjectCorrupt):
        return None


async def is_there(work: Work, name: str, timeout: float) -> bool:
    """Whether there is anything under a name of the store's own."""
    try:
        await work.ask_raw(f"head of {name!r}", timeout, work.client.head, name)
    except Refused as error:
        if error.missing:
            return False
        raise work.translated(error, None) from error
    return True
