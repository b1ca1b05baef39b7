"""What a mirror outwards leaves out: the first thousand records stand in the book by name, the others are counted.

The book's count is of all runs.  It is written before the position behind the records is committed and says up to which
offsets it counts, so that what is read again after a kill is not counted again.  On stderr a few are named, and then
how many there are, now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from dynlog.batch import StoredRecord
from dynlog.migrations.mirror.book import COMPACT_FROM, Book, Page, Pages
from dynlog.migrations.mirror.counts import Standing

logger = logging.getLogger("dynlog.mirror")
MOST_NAMED = 1_000
MOST_WARNED = 20
TELL_S = 5.0

Refused = tuple[StoredRecord, Exception]


class LeftOut:
    """Lives as long as the mirror's standing; `open` begins each of its sessions."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._named: set[str] = set()
        self._more = 0
        self._counted: dict[int, int] = {}
        self._run: dict[int, int] = {}
        """By partition up to which offset this run has counted for itself."""
        self._warned = self._unsaid = self._pages = 0
        self._newest, self._told_at = "", time.monotonic()

    def open(self, pages: Pages, mirror: str) -> None:
        """Takes over what the book says of the mirror."""
        self._named = {p.what for p in pages.left_out.values() if p.mirror == mirror and p.kind == "left-out"}
        page = pages.counted.get(mirror)
        self._more, self._counted = (page.counts.get("left_out", 0), dict(page.offsets)) if page else (0, {})

    async def add(self, book: Book, page: Page, refused: Sequence[Refused]) -> None:
        """Counts and names these of one partition, durably; ``page`` is a left-out page of the mirror without a name.

        Raises what `Book.say` raises; then nothing is known until the mirror is opened again.
        """
        before = self._more
        for stored, error in sorted(refused, key=lambda each: each[0].offset):
            partition, offset = stored.partition, stored.offset
            where = f"{partition}/{offset}"
            if offset >= self._run.get(partition, 0):
                self._run[partition] = offset + 1
                self._standing.counts.left_out += 1
                self._warn(where, error)
            if where in self._named or offset < self._counted.get(partition, 0):
                continue
            if len(self._named) < MOST_NAMED:
                await book.say(page.model_copy(update={"what": where, "why": str(error)}))
                self._named.add(where)
                continue
            self._more += 1
            self._counted[partition] = offset + 1
        if self._more > before:
            await self._write_count(book, page)
        self.tell()

    async def _write_count(self, book: Book, page: Page) -> None:
        counts = {"left_out": self._more}
        await book.say(page.model_copy(update={"kind": "counted", "offsets": self._counted, "counts": counts}))
        self._pages += 1
        if self._pages % COMPACT_FROM == 0:
            await book.shorten()

    def _warn(self, where: str, error: Exception) -> None:
        if self._warned < MOST_WARNED:
            self._warned += 1
            logger.warning("topic %s, record %s is left out: %s", self._standing.source, where, error)
            return
        self._unsaid += 1
        self._newest = f"{where}: {error}"

    def tell(self, *, now: bool = False) -> None:
        """Says how many were left out since it last said so, every `TELL_S` seconds or ``now``."""
        if self._unsaid and (now or time.monotonic() - self._told_at >= TELL_S):
            logger.warning(
                "topic %s: %d more records are left out, %d in all; the last is %s", self._standing.source,
                self._unsaid, self._standing.counts.left_out, self._newest,
            )  # fmt: skip
            self._unsaid, self._told_at = 0, time.monotonic()
