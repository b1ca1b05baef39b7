"""A whole mirror from start to end: what the command line runs, and whoever wants one within a program of his own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Literal

from dynlog.adapters.nats.access import NatsAccess, NatsServer
from dynlog.adapters.nats.names import component_of
from dynlog.adapters.nats.streams import stream_info
from dynlog.batch import Position
from dynlog.errors import DynlogError
from dynlog.log import Log
from dynlog.migrations.mirror.book import Book, Page, open_book
from dynlog.migrations.mirror.choice import Choice, check_spread, target_topic
from dynlog.migrations.mirror.core import CoreMirror
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.cutover import check_not_cut_over, reopen
from dynlog.migrations.mirror.inward import StreamMirror, mirror_in
from dynlog.migrations.mirror.keeping import PASSING, PATIENCE_S, Told, keep_mirroring
from dynlog.migrations.mirror.left_out import LeftOut
from dynlog.migrations.mirror.outbound import Subjects, check_subject
from dynlog.migrations.mirror.outward import OutwardMirror

logger = logging.getLogger("dynlog.mirror")
LAST_WORD_S = 5.0


async def mirror_stream(
    server: NatsServer,
    log: Log,
    stream: str,
    topic: str,
    told: Told,
    *,
    choice: Choice | None = None,
    partitions: int | None = None,
    reopened: bool = False,
    once: bool = False,
    patience_s: float = PATIENCE_S,
) -> Page | None:
    """Mirrors a stream into a topic, which is made if there is none, until it is cancelled or cut over.

    Returns the page of the cut-over; None after ``once``, which ends at the stream's end of now.  Raises
    SourceNotFound, ConfigurationError if it was cut over (and not ``reopened``), SourceChanged if the stream is made
    anew.
    """
    choice = choice or Choice()
    check_spread(choice.partition_by)
    info = await stream_info(server, stream)
    if component_of(stream) is not None:
        logger.warning(
            "stream %s holds Dynamo's KV events, and they are mirrored as they are: for a router's event topic use "
            "'dynlog router ingest --format dynamo-nats'", stream,
        )  # fmt: skip
    target = await target_topic(log, topic, partitions)
    book = await open_book(log)
    await book.shorten()
    standing = Standing("in", stream, topic)
    opened: list[StreamMirror] = []

    def made() -> StreamMirror:
        return StreamMirror(server, log, book, info, target, choice, standing)

    pages, after = await book.read()
    if reopened and mirror_in(info, target) in pages.cut_over:
        await reopen(book, made())
        pages, after = await book.read()
    check_not_cut_over(pages, mirror_in(info, target), stream)

    async def session(heard: Told) -> None:
        mirror = made()
        await mirror.open((await book.read())[0])
        opened[:] = [mirror]
        if once:
            await mirror.catch_up()
            heard(standing)
        else:
            await mirror.run(heard)

    ended = asyncio.create_task(_cut_over(book, mirror_in(info, target), after), name="dynlog-mirror-book")
    try:
        return await _first(keep_mirroring(session, standing, told, patience_s=patience_s), ended)
    finally:
        await _last_word(*(mirror.write_progress() for mirror in opened))


async def mirror_subject(
    server: NatsServer,
    log: Log,
    subject: str,
    topic: str,
    told: Told,
    *,
    partitions: int | None = None,
    partition_by: str | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Mirrors what is published to a core subject or pattern into a topic, at most once, until it is cancelled."""
    check_subject(subject)
    check_spread(partition_by)
    target = await target_topic(log, topic, partitions)
    book, standing = await open_book(log), Standing("in", subject, topic)

    async def session(heard: Told) -> None:
        await CoreMirror(server, log, book, subject, target, partition_by, standing).run(heard)

    await keep_mirroring(session, standing, told, patience_s=patience_s)


async def mirror_out(
    server: NatsServer,
    access: NatsAccess,
    log: Log,
    topic: str,
    subjects: Sequence[str],
    told: Told,
    *,
    begin: Literal["earliest", "end"] = "earliest",
    once: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Mirrors a topic to the given subjects, and to no other, until it is cancelled; with ``once`` to its end of now.

    One subject takes all; several, or a pattern, take each record under its own subject (its key), if that is among
    them.  Raises TopicNotFound, CommitFenced once another mirror of the same topic and subjects runs.
    """
    allowed = Subjects([check_subject(subject) for subject in subjects])
    book = await open_book(log)
    await book.shorten()
    standing = Standing("out", topic, " ".join(subjects))
    left_out = LeftOut(standing)
    source = await log.topic(topic)
    opened: list[OutwardMirror] = []

    async def session(heard: Told) -> None:
        mirror = OutwardMirror(server, access, log, book, source, allowed, begin, standing, left_out)
        await mirror.open((await book.read())[0])
        opened[:] = [mirror]
        await mirror.run(heard, once=once)

    try:
        await keep_mirroring(session, standing, told, patience_s=patience_s)
    finally:
        left_out.tell(now=True)
        await _last_word(*(mirror.write_progress() for mirror in opened))


async def _cut_over(book: Book, mirror: str, after: Position) -> Page:
    """The page that cuts the mirror over, whenever it comes.

    It has no deadline of its own: the end of the mirror bounds it (`_first`), which gives up when its patience is over.
    """
    while True:
        with suppress(*PASSING):  # the mirror itself says that the log is away
            return await book.cut_over(mirror, after)
        await asyncio.sleep(1.0)


async def _first(work: Awaitable[None], ended: asyncio.Task[Page]) -> Page | None:
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        await working
        return None
    finally:
        for task in (working, ended):
            task.cancel()
        await asyncio.gather(working, ended, return_exceptions=True)


async def _last_word(*pages: Awaitable[object]) -> None:
    """Saves the next run some reading; it finds its place without it, too."""
    for page in pages:
        with suppress(DynlogError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await page
