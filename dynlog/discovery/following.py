"""What was imported is there only as long as somebody goes on importing it: it ends when importer or source are gone.

* **Everything imported hangs on a lease of the import**, which is heard of each time that the source was read and the
  bucket holds what it said; never else.  So if the importer dies, is cut off from the log or cannot read the source for
  a TTL, whoever has the bucket open says so, and all of it is gone.
* The lease is named by the source and the TTL: an importer that is started again within the TTL, or runs beside
  another, keeps the same lease alive, and nobody sees anything leave and come back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Never

from dynlog.discovery.importing import ForeignKey, Imported, import_keys
from dynlog.errors import (
    ConfigurationError,
    DeadlineExceeded,
    LeaseLost,
    LogUnavailable,
    OutcomeUnknown,
    SourceError,
)
from dynlog.kv.bucket import Bucket
from dynlog.kv.lease_holder import check_ttl
from dynlog.kv.records import MAX_OWNER_BYTES, Beat, Grant
from dynlog.kv.settings import ttl_ms
from dynlog.tasks import ended
from dynlog.timing import Deadline

logger = logging.getLogger(__name__)
TTL_S = 60.0
EVERY_S = 5.0
TIMEOUT_S = 60.0
ATTEMPTS = 3
"""A lease that ends again and again while an import is under way has too short a TTL for it."""
PASSING = (SourceError, LogUnavailable, DeadlineExceeded, OutcomeUnknown, LeaseLost)
"""What may be better the next time."""

Read = Callable[[float], Awaitable[Sequence[ForeignKey]]]
"""Reads the source within so many seconds."""


async def import_leased(
    bucket: Bucket, source: str, keys: Sequence[ForeignKey], *, ttl_s: float = TTL_S, timeout: float = TIMEOUT_S
) -> Imported:
    """As `import_keys`, but what was imported ends ``ttl_s`` later unless it is imported again, with the same TTL.

    Raises ConfigurationError for a TTL that nobody could keep, LeaseLost if importing takes longer than that, and what
    `import_keys` raises.
    """
    deadline = Deadline(timeout)
    milliseconds = ttl_ms(check_ttl(ttl_s))
    lease = _lease_of(source, milliseconds)
    owner = f"import of {source}".encode()[:MAX_OWNER_BYTES].decode(errors="ignore")
    beat = Beat(f"{socket.gethostname()} process {os.getpid()}", (lease,))
    for _ in range(ATTEMPTS):
        await bucket.barrier(deadline.remaining)
        if lease not in bucket.leases:  # of several that grant it at once one does
            await bucket.say(Grant(lease, milliseconds, owner), timeout=deadline.remaining)
        try:
            done = await import_keys(bucket, source, keys, lease=lease, timeout=deadline.remaining)
        except LeaseLost:
            continue
        await bucket.say(beat, timeout=deadline.remaining)
        if lease in bucket.leases:
            return done
    raise LeaseLost(
        f"the lease of the import ended {ATTEMPTS} times before the import did: give it a longer TTL than {ttl_s:g} s",
        bucket=bucket.name,
        lease=lease,
    )


async def follow(
    bucket: Bucket,
    source: str,
    read: Read,
    told: Callable[[Imported], Awaitable[None]],
    *,
    ttl_s: float = TTL_S,
    every_s: float = EVERY_S,
    timeout: float = TIMEOUT_S,
) -> None:
    """Imports again and again until it is cancelled; ``told`` hears what each import did.

    No import waits for it: if it is slow it hears only of the newest one.  What it raises is raised.
    What fails at first is raised, as is what no repetition mends; else a failure is logged and the next time is waited
    for: what was imported ends if none succeeds within the TTL, and is there again once one does.  Raises
    ConfigurationError for an interval that the TTL does not allow, and what `import_leased` raises.
    """
    if not 0 < every_s <= check_ttl(ttl_s) / 2:
        raise ConfigurationError(
            f"importing every {every_s:g} s what ends after {ttl_s:g} s: the TTL is at least twice the interval"
        )
    newest: asyncio.Queue[Imported] = asyncio.Queue(1)
    telling = asyncio.create_task(_tell(newest, told), name=f"dynlog-import-reports {source}")
    failing = False
    began = False
    try:
        while not telling.done():
            deadline = Deadline(min(timeout, ttl_s) if began else timeout)
            try:
                keys = await read(deadline.remaining)
                done = await import_leased(bucket, source, keys, ttl_s=ttl_s, timeout=deadline.remaining)
            except PASSING as error:
                if not began:
                    raise
                if not failing:
                    logger.warning(
                        "import of %s: %s; unless that passes, what was imported is gone soon", source, error
                    )
                failing = True
            else:
                if failing:
                    logger.warning("import of %s: it works again", source)
                began, failing = True, False
                if newest.full():
                    newest.get_nowait()
                newest.put_nowait(done)
            await asyncio.wait([telling], timeout=every_s)
        telling.result()
    finally:
        telling.cancel()
        await ended(telling)


async def _tell(newest: asyncio.Queue[Imported], told: Callable[[Imported], Awaitable[None]]) -> Never:
    while True:
        await told(await newest.get())


def _lease_of(source: str, milliseconds: int) -> str:
    return f"import-{hashlib.sha256(source.encode()).hexdigest()[:16]}-{milliseconds}ms"
