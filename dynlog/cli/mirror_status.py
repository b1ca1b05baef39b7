"""``dynlog mirror nats status``: what the mirrors' book says."""

from __future__ import annotations

from typing import Any

from dynlog.cli.log_open import open_existing
from dynlog.cli.output import human_time, print_json, print_table
from dynlog.cli.run import run
from dynlog.errors import TopicNotFound
from dynlog.migrations.mirror.book import TOPIC, Page, Pages, open_book

MOST_SHOWN = 20
HEADINGS = ("DIRECTION", "FROM", "TO", "POSITION", "COPIED", "LEFT OUT", "AT", "STATE")


def show_status(log_url: str, *, as_json: bool) -> None:
    """Prints a row for every mirror; none where none ever ran."""

    async def work() -> Pages:
        async with open_existing(log_url) as log:
            try:
                await log.topic(TOPIC)
            except TopicNotFound:
                return Pages()
            return (await (await open_book(log)).read())[0]

    pages = run(work())
    names = sorted(pages.progress.keys() | pages.cut_over.keys())
    found = [(pages.cut_over.get(name) or pages.progress[name], pages) for name in names]
    if as_json:
        print_json([_facts(page, pages) for page, pages in found])
        return
    print_table(HEADINGS, [_row(page, pages) for page, pages in found], empty="no mirrors")
    for page, _ in found:
        _print_left_out(page, pages)


def _left_out(page: Page, pages: Pages) -> list[Page]:
    return [other for other in pages.left_out.values() if other.mirror == page.mirror]


def _count(page: Page, pages: Pages) -> int:
    counted = pages.counted.get(page.mirror)
    return len(_left_out(page, pages)) + (counted.counts.get("left_out", 0) if counted is not None else 0)


def _print_left_out(page: Page, pages: Pages) -> None:
    source, target = _ends(page)
    named = _left_out(page, pages)[:MOST_SHOWN]
    for other in named:
        print(f"{page.direction} {source} -> {target}: {other.what}: {other.why}")
    if more := _count(page, pages) - len(named):
        print(f"{page.direction} {source} -> {target}: and {more:,} more; --json names all that the book does")


def _facts(page: Page, pages: Pages) -> dict[str, Any]:
    return {
        **page.model_dump(include={"mirror", "direction", "topic", "sequences", "offsets", "counts", "time_ms"}),
        "cut_over": page.kind == "cut-over",
        "left_out_count": _count(page, pages),
        "left_out": [{"what": other.what, "why": other.why} for other in _left_out(page, pages)],
    }


def _row(page: Page, pages: Pages) -> tuple[object, ...]:
    source, target = _ends(page)
    position = max(page.sequences.values(), default=0) if page.direction == "in" else " ".join(
        f"{partition}/{offset}" for partition, offset in sorted(page.offsets.items())
    )  # fmt: skip
    state = "cut over" if page.kind == "cut-over" else ""
    return (
        page.direction, source, target, position, page.counts.get("copied", 0), _count(page, pages),
        human_time(page.time_ms), state,
    )  # fmt: skip


def _ends(page: Page) -> tuple[str, str]:
    _, source, target = [*page.mirror.split(" ", 2), "", ""][:3]
    return _bare(source), _bare(target)


def _bare(place: str) -> str:
    """A place without its life."""
    return place.partition("@")[0]
