"""The mirrors' book is kept short, and whoever waits for a page of it hears of it all the same."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.batch import Position
from dynlog.errors import LogUnavailable, SourceUnavailable
from dynlog.log import Log
from dynlog.migrations.mirror import running
from dynlog.migrations.mirror.book import COMPACT_FROM, TOPIC, Book, Page, open_book
from dynlog.record import Record


def page(kind: str, sequence: int = 0, what: str = "") -> Page:
    """A page of one mirror."""
    return Page.model_validate(
        {"kind": kind, "mirror": "in a b", "direction": "in", "topic": "t", "sequences": {"a": sequence}, "what": what}
    )


async def test_a_long_book_is_shortened_and_says_the_same(log: Log) -> None:
    book = await open_book(log)
    said = page("progress").model_dump_json().encode()
    await log.append(TOPIC, 0, [Record(parts=(said,), key=b"progress in a b")] * (COMPACT_FROM + 10))
    newest = await book.say(page("progress", 7))
    left_out = await book.say(page("left-out", what="5"))
    cut = await book.say(page("cut-over", 7))
    await book.shorten()
    (state,) = await log.partitions(TOPIC)
    assert state.end - state.earliest < 10
    pages, _ = await book.read()
    assert (pages.progress, pages.left_out, pages.cut_over) == (
        {"in a b": newest}, {left_out.key: left_out}, {"in a b": cut},
    )  # fmt: skip


async def test_whoever_waits_hears_of_a_cut_over_although_the_book_is_shortened_meanwhile(log: Log) -> None:
    book = await open_book(log)
    _, after = await book.read()
    await book.say(page("progress", 1))
    cut = await book.say(page("cut-over", 1))
    (state,) = await log.partitions(TOPIC)
    await log.append(TOPIC, 0, [Record(parts=(cut.model_dump_json().encode(),), key=cut.key.encode())])
    await log.truncate(TOPIC, 0, state.end)
    assert await asyncio.wait_for(book.cut_over("in a b", after), 10) == cut


async def test_a_cut_over_that_was_taken_back_is_none(log: Log) -> None:
    book = await open_book(log)
    await book.say(page("cut-over", 1))
    await book.say(page("reopened"))
    assert (await book.read())[0].cut_over == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"kind":"else","mirror":"m"}'])
async def test_a_page_of_another_release_is_passed_over(log: Log, body: bytes) -> None:
    book = await open_book(log)
    await log.append(TOPIC, 0, [Record(parts=(body,), key=b"k")])
    kept = await book.say(page("progress", 3))
    assert (await book.read())[0].progress == {"in a b": kept}


async def test_a_book_that_is_away_is_asked_for_a_cut_over_until_the_mirror_ends_and_no_longer(log: Log) -> None:
    asked = asyncio.Event()

    class Away(Book):
        async def cut_over(self, mirror: str, after: Position) -> Page:
            asked.set()
            raise LogUnavailable("it is away", topic=TOPIC)

    async def mirror() -> None:
        await asked.wait()
        raise SourceUnavailable("its patience is over")

    book = Away(log, await log.create_topic(TOPIC))
    ended = asyncio.create_task(running._cut_over(book, "in a b", Position(TOPIC, "", 0, 0)))
    with pytest.raises(SourceUnavailable, match="its patience is over"):
        await running._first(mirror(), ended)
    assert ended.cancelled()
