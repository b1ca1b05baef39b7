"""The topic `TOPIC` is the mirrors' book: how far each has come, what it left out, and where one was cut over.

A page has a key and the newest one of a key counts, so the topic is kept short by compaction.  The book only saves a
mirror from looking for its place in everything that it ever wrote: what lies in the target itself is what counts.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dynlog.batch import Position
from dynlog.compaction import compact
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import DeadlineExceeded, DynlogError, OffsetTruncated
from dynlog.log import Log
from dynlog.record import Record
from dynlog.topics import Topic

TOPIC = "dynlog.mirror"
LABEL = "dynlog.mirror"
SAYING = DeliveryPolicy(timeout_s=15.0, attempt_timeout_s=5.0)
COMPACT_FROM = 1_000
COMPACT_S = 20.0

Kind = Literal["progress", "left-out", "counted", "missed", "cut-over", "reopened"]


class Page(BaseModel):
    """One record of the book.

    ``sequences`` is by stream (its place) how far the mirror has read, or written; ``offsets`` by partition where the
    topic ended, or is read next.  ``what`` and ``why`` say of one message or record why it was left out; a page that is
    ``counted`` says of how many more, below its offsets, that is not said (``counts["left_out"]``).
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    mirror: str
    direction: Literal["in", "out"]
    topic: str
    sequences: dict[str, int] = {}
    offsets: dict[int, int] = {}
    what: str = ""
    why: str = ""
    counts: dict[str, int] = {}
    time_ms: int = 0

    @property
    def key(self) -> str:
        """Pages of the same key replace one another."""
        kind = "cut-over" if self.kind == "reopened" else self.kind
        return f"{kind} {self.mirror} {self.what}".rstrip()


@dataclass(slots=True)
class Pages:
    """What the book says of every mirror, folded."""

    progress: dict[str, Page] = field(default_factory=dict)
    cut_over: dict[str, Page] = field(default_factory=dict)
    left_out: dict[str, Page] = field(default_factory=dict)
    counted: dict[str, Page] = field(default_factory=dict)

    def take(self, page: Page) -> None:
        """Takes note of a page that is newer than all before."""
        match page.kind:
            case "progress":
                self.progress[page.mirror] = page
            case "cut-over":
                self.cut_over[page.mirror] = page
            case "counted":
                # A mirror that another has taken over from, and does not know it yet, may write last.
                known = self.counted.get(page.mirror)
                if known is None or known.counts.get("left_out", 0) <= page.counts.get("left_out", 0):
                    self.counted[page.mirror] = page
            case "reopened":
                self.cut_over.pop(page.mirror, None)
            case _:
                self.left_out[page.key] = page


class Book:
    """The book of a log; `open_book` makes it where there is none."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self._log, self._topic = log, topic

    async def say(self, page: Page) -> Page:
        """Writes a page, durably; raises what `deliver` raises."""
        page = page.model_copy(update={"time_ms": time.time_ns() // 1_000_000})
        body = json.dumps(page.model_dump(mode="json"), ensure_ascii=False).encode()
        record = Record(parts=(body,), key=page.key.encode("utf-8", "replace"), timestamp_ms=page.time_ms)
        await deliver(self._log, self._topic.name, 0, [record], SAYING)
        return page

    async def read(self) -> tuple[Pages, Position]:
        """All pages up to now, and where the next one will be."""
        while True:
            pages, position = Pages(), await self._log.position(self._topic.name, 0)
            try:
                while True:
                    batch = await self._log.read(position)
                    for stored in batch:
                        if (page := _page(stored.record)) is not None:
                            pages.take(page)
                    position = batch.next_position
                    if batch.next_offset >= batch.end_offset:
                        return pages, position
            except OffsetTruncated:
                await asyncio.sleep(0)  # it was compacted meanwhile: from the new start

    async def cut_over(self, mirror: str, after: Position) -> Page:
        """Waits until somebody cuts the mirror over, and returns that page."""
        position = after
        while True:
            try:
                batch = await self._log.read(position, wait=20.0)
            except OffsetTruncated:
                pages, position = await self.read()
                if mirror in pages.cut_over:
                    return pages.cut_over[mirror]
                continue
            for stored in batch:
                page = _page(stored.record)
                if page is not None and page.kind == "cut-over" and page.mirror == mirror:
                    return page
            position = batch.next_position

    async def shorten(self) -> None:
        """Compacts it if most of it is old; what stands in the way of that stands in no mirror's way."""
        state = (await self._log.partitions(self._topic.name))[0]
        if state.end - state.earliest < COMPACT_FROM:
            return
        try:
            await compact(self._log, self._topic.name, timeout=COMPACT_S)
        except (DeadlineExceeded, DynlogError):
            return


async def open_book(log: Log) -> Book:
    """The log's book, made if there is none."""
    return Book(log, await log.create_topic(TOPIC, exist_ok=True, labels={LABEL: "book"}))


def _page(record: Record) -> Page | None:
    """The page; None for what no mirror of this release wrote."""
    try:
        said: Any = json.loads(b"".join(record.parts))
        return Page.model_validate(said) if isinstance(said, Mapping) else None
    except (ValueError, ValidationError):
        return None
