"""However many records a mirror outwards leaves out: a few are named, and all are counted, once over any restart."""

from __future__ import annotations

import pytest

from dynlog.errors import LogUnavailable
from dynlog.log import Log
from dynlog.migrations.mirror import left_out
from dynlog.migrations.mirror.book import TOPIC, Book, Page, open_book
from dynlog.migrations.mirror.outward import group_of
from tests.mirror.sides import OldSide, append, once_out, records


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few have a name, so that few are many."""
    monkeypatch.setattr(left_out, "MOST_NAMED", 3)
    monkeypatch.setattr(left_out, "MOST_WARNED", 2)


async def stray(log: Log, count: int) -> None:
    """Appends so many records whose subject is none that a mirror was given."""
    for number in range(count):
        await append(log, "t", b"%d" % number, key=b"somebody.else")


async def said(log: Log) -> tuple[list[str], int]:
    """The names that the book has, and how many more it counts."""
    pages, _ = await (await open_book(log)).read()
    return sorted(page.what for page in pages.left_out.values()), sum(
        page.counts["left_out"] for page in pages.counted.values()
    )


async def test_the_first_are_named_and_the_others_counted(
    old: OldSide, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    await log.create_topic("t")
    await stray(log, 10)
    await append(log, "t", b"right", key=f"{old.name}.new".encode())
    counts = await once_out(old, log, "t", f"{old.name}.*")
    assert (counts["copied"], counts["left_out"]) == (1, 10)
    assert await said(log) == (["0/0", "0/1", "0/2"], 7)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "topic t, record 0/0 is left out", "topic t, record 0/1 is left out", "topic t",
    ]  # fmt: skip
    assert "8 more records are left out, 10 in all; the last is 0/9: the subject" in caplog.text
    assert len(await records(log, TOPIC)) < 10


async def test_what_was_left_out_but_not_committed_is_not_counted_again(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    await stray(log, 10)
    subject = f"{old.name}.*"
    await once_out(old, log, "t", subject)
    await log.open_generation(group_of([subject]), "t", {0: 0})  # as a kill before the commit leaves it
    await stray(log, 2)
    assert (await once_out(old, log, "t", subject))["left_out"] == 12
    assert await said(log) == (["0/0", "0/1", "0/2"], 9)


@pytest.mark.parametrize("kind", ["left-out", "counted"])
@pytest.mark.parametrize("written", [True, False])
async def test_an_outage_while_they_are_counted_changes_no_count(
    old: OldSide, log: Log, monkeypatch: pytest.MonkeyPatch, kind: str, written: bool
) -> None:
    say, failed = Book.say, False

    async def failing(book: Book, page: Page) -> Page:
        nonlocal failed
        if page.kind == kind and not failed:
            failed = True
            if written:
                await say(book, page)
            raise LogUnavailable("away")
        return await say(book, page)

    monkeypatch.setattr(Book, "say", failing)
    await log.create_topic("t")
    await stray(log, 10)
    assert (await once_out(old, log, "t", f"{old.name}.*"))["left_out"] == 10
    assert failed
    assert await said(log) == (["0/0", "0/1", "0/2"], 7)


async def test_of_two_counts_the_larger_is_right(log: Log) -> None:
    book = await open_book(log)
    for count in (5, 9, 7):  # the last by a mirror that does not know yet that another took over
        page = Page(kind="counted", mirror="m", direction="out", topic="t", counts={"left_out": count})
        await book.say(page)
    assert await said(log) == ([], 9)
