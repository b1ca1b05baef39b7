"""How far an apply is, in all and by bytes, with the time that is left: a bar on a terminal, else lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dynlog.cli.output import PROGRESS_EVERY_S, human_bytes, human_seconds, say
from dynlog.migrations.nats.contract import Item, Progress

_PARTS = 10_000
_BYTES_ARE_KNOWN = ("objects", "model")
"""Of the others a plan knows what they take up on the source, which is more than what will be moved of them."""


class Meter:
    """What is done of the items, as a share of all; with ``by_bytes`` their bytes count where they are known before."""

    def __init__(self, items: Sequence[Item], *, by_bytes: bool = True) -> None:
        self._expected = {
            item.id: (item.count, item.bytes if by_bytes and item.kind in _BYTES_ARE_KNOWN else 0) for item in items
        }
        self._known = by_bytes and all(item.kind in _BYTES_ARE_KNOWN for item in items)
        self._names, self._bytes = (sum(each) for each in zip((0, 0), *self._expected.values(), strict=True))
        self._done: dict[str, tuple[int, int]] = {}
        self._begun = time.monotonic()

    def tell(self, item: Item, names: int, size: int) -> None:
        """So much of the item."""
        self._done[item.id] = names, size

    @property
    def share(self) -> float:
        """Between 0 and 1: names count as much as bytes do, because small things cost time, too."""
        names = sum(min(done[0], self._expected[id][0]) for id, done in self._done.items())
        size = sum(min(done[1], self._expected[id][1]) for id, done in self._done.items())
        shares = [done / all for done, all in ((names, self._names), (size, self._bytes)) if all]
        return sum(shares) / len(shares) if shares else 1.0

    @property
    def text(self) -> str:
        """``120 of 2,000, 1.2 MiB of 20 MiB, 3.1 MiB/s, 12s left``."""
        names, size = (sum(each) for each in zip((0, 0), *self._done.values(), strict=True))
        passed, share = max(time.monotonic() - self._begun, 0.001), self.share
        left = f", {human_seconds(round(passed * (1 - share) / share))} left" if 0.01 <= share < 1 else ""
        of = f" of {human_bytes(self._bytes)}" if self._known else ""
        return f"{names:,} of {self._names:,}, {human_bytes(size)}{of}, {human_bytes(size / passed)}/s{left}"


@contextmanager
def showing(items: Sequence[Item], doing: str, *, by_bytes: bool = True) -> Iterator[Progress]:
    """Gives the callback that is told of every step."""
    meter = Meter(items, by_bytes=by_bytes)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=_PARTS, text="")

            def draw(item: Item, names: int, size: int) -> None:
                meter.tell(item, names, size)
                bar.update(
                    task, completed=round(meter.share * _PARTS), description=f"{doing} {item.source}", text=meter.text
                )

            yield draw
        return
    last = time.monotonic()

    def line(item: Item, names: int, size: int) -> None:
        nonlocal last
        meter.tell(item, names, size)
        if time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            say(f"{doing} {item.source}: {meter.text}")

    yield line
