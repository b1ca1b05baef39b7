"""The dump as text, in pieces, so that neither a terminal nor an HTTP client makes the router hold all of it.

A router that follows its log changes while it is read, so its dump is made of a copy: the state at one moment, whatever
comes meanwhile.  The copy costs the memory of the index once more, and a thread, so that nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator

from dynlog.blocking import BlockingPool
from dynlog.router.dump import dump_events
from dynlog.router.image import read_image, write_image
from dynlog.router.index import KvIndex

PIECE_CHARS = 64 * 1024


def dump_text(index: KvIndex, *, lines: bool) -> Iterator[bytes]:
    """Dynamo RouterEvents as one JSON list, an event a line, or (``lines``) as JSON lines, in pieces of about 64 KiB.

    The index must not change meanwhile.
    """
    separator, end = ("\n", "\n") if lines else (",\n", "]\n")
    pieces, size, first = [] if lines else ["["], 0, True
    for event in dump_events(index):
        text = json.dumps(event, separators=(",", ":"))
        pieces += (text,) if first else (separator, text)
        first = False
        size += len(text)
        if size >= PIECE_CHARS:
            yield "".join(pieces).encode()
            pieces, size = [], 0
    if not (lines and first):
        yield ("".join(pieces) + end).encode()


async def live_dump_text(index: KvIndex, *, lines: bool) -> AsyncGenerator[bytes, None]:
    """`dump_text` of an index that goes on changing: its state at the moment of the first step."""
    parts = []
    for part in write_image(index):
        parts.append(part)
        await asyncio.sleep(0)
    async with BlockingPool(1, "dynlog-dump") as pool:
        pieces = dump_text(await pool.run(read_image, parts), lines=lines)
        parts.clear()
        while (piece := await pool.run(next, pieces, None)) is not None:
            yield piece
