"""Reads an etcd without ever writing to it: all keys under some prefixes, as they were at one revision.

Keys and values are bytes and come as they are.  What hangs on a lease says on which and for how long that lives still:
etcd itself takes such a key away when its lease ends, so a lease that is named here was alive when it was read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from dynlog.adapters.etcd_http import AnswerTooLarge, Compacted, Gateway, Place
from dynlog.errors import DeadlineExceeded, SourceError, SourceUnavailable
from dynlog.timing import Deadline

PAGE_KEYS = 1_000
MAX_KEYS = 1_000_000
"""An image lies in memory; an etcd of Dynamo's holds some per worker."""
_LEASES_AT_ONCE = 16
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class EtcdEntry:
    """One key as etcd has it."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    """0 for a key that is bound to none."""


@dataclass(frozen=True, slots=True)
class EtcdImage:
    """What lay under the prefixes at one revision, by key, and the seconds that each lease has left."""

    revision: int
    entries: tuple[EtcdEntry, ...]
    leases: dict[int, int]
    """A lease that ended after the revision is not there."""


async def read_etcd(
    place: Place, prefixes: Sequence[bytes], *, page: int = PAGE_KEYS, timeout: float = 30.0
) -> EtcdImage:
    """Everything under the prefixes at one and the same revision, whatever is written meanwhile.

    Raises SourceUnavailable, SourceRefused, ConfigurationError, DeadlineExceeded; nothing is left open then either.
    """
    deadline = Deadline(timeout)
    gateway = Gateway(place)
    for _ in range(_ATTEMPTS):
        try:
            revision = 0
            entries: list[EtcdEntry] = []
            for prefix in prefixes:
                async for at, found in _pages(gateway, prefix, revision, page, deadline):
                    revision = at
                    entries += found
                    if len(entries) > MAX_KEYS:
                        raise SourceError(f"etcd at {place.shown} has over {MAX_KEYS:,} keys there: name a prefix")
        except Compacted:
            continue
        leases = await _time_to_live(gateway, sorted({entry.lease for entry in entries} - {0}), deadline)
        return EtcdImage(revision, tuple(entries), leases)
    raise SourceUnavailable(f"etcd at {place.shown} compacts faster than it can be read: {_ATTEMPTS} times in a row")


async def _pages(
    gateway: Gateway, prefix: bytes, revision: int, page: int, deadline: Deadline
) -> AsyncIterator[tuple[int, list[EtcdEntry]]]:
    """(revision, entries) of each page; the first one decides the revision unless it is given."""
    after, end = prefix or b"\0", _end_of(prefix)
    while True:
        request: dict[str, Any] = {"key": _encoded(after), "range_end": _encoded(end), "limit": page}
        if revision:
            request["revision"] = revision
        try:
            answer = await gateway.call("/v3/kv/range", request, timeout=_left(deadline))
        except AnswerTooLarge:
            if page == 1:
                raise
            page = max(1, page // 4)
            continue
        try:
            found = [_entry(kv) for kv in answer.get("kvs", [])]
            revision = revision or int(answer["header"]["revision"])
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise SourceUnavailable(f"etcd's answer is none that we know ({error!r}): {str(answer)[:200]}") from None
        yield revision, found
        if not answer.get("more") or not found:
            return
        after = found[-1].key + b"\0"


async def _time_to_live(gateway: Gateway, leases: Sequence[int], deadline: Deadline) -> dict[int, int]:
    left: dict[int, int] = {}
    waiting = iter(leases)

    async def ask() -> None:
        for lease in waiting:
            answer = await gateway.call("/v3/lease/timetolive", {"ID": str(lease)}, timeout=_left(deadline))
            seconds = int(answer.get("TTL", 0))
            if seconds > 0:
                left[lease] = seconds

    tasks = [asyncio.create_task(ask(), name="dynlog etcd leases") for _ in range(min(_LEASES_AT_ONCE, len(leases)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return left


def _left(deadline: Deadline) -> float:
    if deadline.passed:
        raise DeadlineExceeded("no time left while reading an etcd")
    return deadline.remaining


def _entry(kv: Any) -> EtcdEntry:
    # The gateway writes 64-bit numbers as strings and leaves out what is zero or empty.
    return EtcdEntry(
        base64.b64decode(kv["key"], validate=True), base64.b64decode(kv.get("value", ""), validate=True),
        int(kv["create_revision"]), int(kv["mod_revision"]), int(kv["version"]), int(kv.get("lease", 0)),
    )  # fmt: skip


def _encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin with the prefix; a zero byte means the end of all keys."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else b"\0"
