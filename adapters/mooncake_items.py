"""A Mooncake trace as items for the ingest: one record per request, marked by the trace and the request's number.

The mark names the trace's digest, the fleet's shape and the request, so a run that was killed goes on, a run that is
repeated changes nothing, and a longer run goes on behind a shorter one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from itertools import islice
from pathlib import Path

from dynlog.adapters.mooncake import Chains, Worker, read_trace
from dynlog.errors import ConfigurationError
from dynlog.ingest_items import Item, Taken
from dynlog.kvevents import encode_events
from dynlog.record import Mark

BREATH = 16
"""The event loop is given back after so many requests."""


async def mooncake_items(
    path: Path, *, workers: int, capacity: int, requests: int | None = None
) -> AsyncGenerator[Item, None]:
    """The events of ``workers`` engines of ``capacity`` blocks that serve the trace's first ``requests`` in turn.

    Raises MalformedEvent naming the line that is no request, and ConfigurationError if the file cannot be read.
    """
    try:
        digest = await asyncio.to_thread(_digest, path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    producer = f"mooncake:{digest}:{workers}x{capacity}"
    chains = Chains()
    fleet = [Worker(number, capacity) for number in range(workers)]
    for number, request in enumerate(islice(read_trace(path), requests)):
        events = list(fleet[number % workers].serve(chains.of(request)))
        if events:
            blocks = sum(len(event.block_hashes) for event in events) // 8
            mark = Mark(producer, 0, number)
            record = encode_events(events, mark=mark, timestamp_ms=request.timestamp_ms)
            yield Taken(record, len(events), blocks)
        if number % BREATH == 0:
            await asyncio.sleep(0)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
