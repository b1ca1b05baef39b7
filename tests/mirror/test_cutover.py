"""A cut-over is refused while the old side publishes, and otherwise ends the mirror at a recorded position."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import nats
import pytest

from dynlog.adapters.nats.access import open_nats
from dynlog.adapters.nats.streams import stream_info
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.migrations.mirror.book import Page, open_book
from dynlog.migrations.mirror.choice import Choice
from dynlog.migrations.mirror.cutover import StillPublishing, cut_over
from dynlog.migrations.mirror.inward import StreamMirror
from dynlog.migrations.mirror.running import mirror_out, mirror_stream
from tests.mirror.sides import OldSide, Told, append, bodies, once_in, running

WATCH_S = 0.6


async def cut(old: OldSide, log: Log, topic: str = "t") -> Page:
    """What `dynlog mirror nats cutover` does."""
    async with open_nats(old.access) as server:
        book = await open_book(log)
        mirror = StreamMirror(server, log, book, await stream_info(server, old.name), await log.topic(topic), Choice())
        await mirror.open((await book.read())[0])
        return await cut_over(server, book, mirror, WATCH_S, lambda standing: None)


async def test_it_is_refused_while_somebody_publishes_and_names_subject_and_publisher(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    publisher = await nats.connect(old.url, name="old-worker-7")
    stop = asyncio.Event()

    async def publish() -> None:
        while not stop.is_set():
            await publisher.publish(f"{old.name}.late", b"x")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)

    publishing = asyncio.create_task(publish())
    with pytest.raises(StillPublishing, match=rf"{old.name}\.late .*old-worker-7"):
        await cut(old, log)
    stop.set()
    await publishing
    await publisher.close()
    pages, _ = await (await open_book(log)).read()
    assert pages.cut_over == {}


async def test_when_it_is_quiet_everything_is_moved_and_a_mirror_that_runs_ends_there(old: OldSide, log: Log) -> None:
    told = Told()
    await old.publish("a", b"1", b"2")
    async with running(lambda server: mirror_stream(server, log, old.name, "t", told), old.access) as mirror:
        await told.until(lambda now: now.counts.copied == 2)
        page = await cut(old, log)
        ended = await asyncio.wait_for(mirror, 20)
    assert ended is not None
    assert list(page.sequences.values()) == list(ended.sequences.values()) == [2]
    assert page.offsets == {0: 2}
    assert await bodies(log, "t") == [b"1", b"2"]


async def test_it_moves_what_no_mirror_has_moved_yet(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    await old.publish("a", b"1", b"2", b"3")
    page = await cut(old, log)
    assert list(page.sequences.values()) == [3]
    assert await bodies(log, "t") == [b"1", b"2", b"3"]


async def test_no_mirror_begins_after_it_until_it_is_reopened_and_then_nothing_is_missing(
    old: OldSide, log: Log
) -> None:
    await old.publish("a", b"1")
    await once_in(old, log, "t")
    assert await cut(old, log) == await cut(old, log), "a second one changes nothing"
    await old.publish("a", b"2")
    with pytest.raises(ConfigurationError, match=r"cut over .* sequence 1"):
        await once_in(old, log, "t")
    await once_in(old, log, "t", reopened=True)
    assert await bodies(log, "t") == [b"1", b"2"]
    await once_in(old, log, "t")


async def test_what_the_mirror_outwards_puts_into_the_stream_is_not_the_old_side(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    await old.publish("a", b"old")
    told = Told()
    stop = asyncio.Event()

    async def produce() -> None:
        number = 0
        while not stop.is_set():
            await append(log, "t", b"new %d" % number)
            number += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.03)

    async with running(lambda server: mirror_out(server, old.access, log, "t", [f"{old.name}.new"], told), old.access):
        producing = asyncio.create_task(produce())
        await told.until(lambda now: now.counts.copied > 2)
        page = await cut(old, log)
        stop.set()
        await producing
    assert max(page.sequences.values()) > 1
    assert (await bodies(log, "t")).count(b"old") == 1
