"""A stream into a topic: every message once, in the stream's order within each partition, however often it is killed.

* The mark is the stream's place and sequence, so what is appended again is not doubled.
* Where to go on is found in the topic itself (`dynlog.migrations.mirror.place`); the book only shortens the search.
* **What had been in the topic before never comes back into it** (`dynlog.migrations.mirror.path`).
* What the topic cannot hold is written into the book by its sequence, and the rest goes on.
* The stream is read by sequence, no consumer is made; a stream that was deleted or made anew ends the mirror.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo, StreamMessage, read_stream, stream_info
from dynlog.codec import MAX_NAME_BYTES, MAX_RECORDS, check_record, encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import ConfigurationError, MalformedRecord, SourceChanged
from dynlog.log import Log
from dynlog.migrations.mirror.book import Book, Page, Pages
from dynlog.migrations.mirror.choice import Choice, settle
from dynlog.migrations.mirror.counts import Counts, Standing
from dynlog.migrations.mirror.inbound import Source, path_of, producer_of
from dynlog.migrations.mirror.path import has_been, stream_place, topic_place
from dynlog.migrations.mirror.place import newest_in_topic
from dynlog.migrations.nats.origin import record_of
from dynlog.migrations.nats.spread import Spread, spread_of
from dynlog.producer import PAYLOAD_OVERHEAD
from dynlog.record import Record
from dynlog.topics import Topic

logger = logging.getLogger("dynlog.mirror")
LOOK_S = 0.1
"""How often a stream that stands still is asked whether it does."""
PROGRESS_S = 5.0
BATCH_BYTES = 1 << 20
POLICY = DeliveryPolicy(timeout_s=30.0, attempt_timeout_s=10.0)


def mirror_in(stream: StreamInfo, topic: Topic) -> str:
    """Names the mirror for ever; its marks are its source's own, so any number of them may run."""
    return mirror_in_place(stream_place(stream), topic)


def mirror_in_place(place: str, topic: Topic) -> str:
    """`mirror_in` of the stream that the place is."""
    return f"in {place} {topic_place(topic)}"


class StreamMirror:
    """One stream's way into one topic; `open` finds where to go on, `catch_up` goes up to the end of now."""

    def __init__(
        self, server: NatsServer, log: Log, book: Book, info: StreamInfo, topic: Topic, choice: Choice,
        standing: Standing | None = None,
    ) -> None:  # fmt: skip
        self._server, self._log, self._book, self._topic = server, log, book, topic
        self.info, self.choice = info, choice
        self.place, self.here = stream_place(info), topic_place(topic)
        self.id = mirror_in(info, topic)
        self.next = 1
        self._spread: Spread = spread_of(None, 1)
        self._held: dict[int, int] = {}
        self._written: tuple[int, float] = (-1, 0.0)
        self._told: Callable[[Standing], None] = lambda standing: None
        self._limit = min(BATCH_BYTES, log.capabilities.max_batch_bytes) - PAYLOAD_OVERHEAD
        self._most = log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
        self.standing = standing or Standing("in", info.name, topic.name)

    @property
    def counts(self) -> Counts:
        """What it did since it was opened."""
        return self.standing.counts

    async def open(self, pages: Pages) -> None:
        """Finds the first sequence that is not in the topic yet.

        Raises ConfigurationError if the topic takes other subjects of the same stream, or spreads them otherwise.
        """
        if len(producer_of(self.place)) > MAX_NAME_BYTES:
            raise ConfigurationError(f"stream {self.info.name!r}: its name is too long to stand in its records' marks")
        settled = await settle(self._log, self._topic, self.info, self.choice)
        self._spread = spread_of(settled.partition_by, self._topic.partitions)
        page = pages.progress.get(self.id)
        floors = page.offsets if page is not None else {}
        newest = await newest_in_topic(self._log, self._topic, self.place, floors)
        self._held = {p: newest[p].sequence if p in newest else 0 for p in range(self._topic.partitions)}
        done = page.sequences.get(self.place, 0) if page is not None else 0
        self.next = max(done, min(self._held.values())) + 1
        await self._look()
        if newest:
            await self._same(max(newest.values(), key=lambda source: source.sequence))
        self.standing.position = self.next - 1

    async def catch_up(self, until: int | None = None) -> int:
        """Copies what the stream holds now, up to ``until``; returns the sequence up to which all is done.

        Raises SourceChanged if the stream is another one now, what reading it raises, and what an append raises.
        """
        await self._look()
        last = self.info.last_seq if until is None else min(until, self.info.last_seq)
        self._measure()
        if self.next <= last:
            await self._miss()
            seen = await self._copy(last)
            if self.choice.subject is None:
                await self._miss_more(seen, last)
            self.next = last + 1
            self.standing.position = last
            self._measure()
        await self._progress()
        return self.next - 1

    async def _copy(self, last: int) -> int:
        """Copies what there is from `next` on up to ``last``; returns how many messages were seen."""
        batch, seen = _Batch(self._limit), 0
        messages = read_stream(self._server, self.info, first=self.next, last=last, subject=self.choice.subject)
        async with aclosing(messages):
            async for message in messages:
                seen += 1
                partition = self._spread(message)
                record = await self._record(message, partition)
                if record is None:
                    continue
                if not batch.fits(record):
                    await self._append(batch)
                    self.standing.position, self.standing.behind = message.sequence - 1, last - message.sequence + 1
                    self.standing.seconds_behind = max(time.time_ns() - message.time_ns, 0) / 1e9
                    self._told(self.standing)
                batch.add(partition, record)
        await self._append(batch)
        return seen

    async def run(self, told: Callable[[Standing], None]) -> None:
        """Follows the stream until it is cancelled; ``told`` hears after every step where it stands."""
        self._told = told
        while True:
            before = self.next
            await self.catch_up()
            told(self.standing)
            if self.next == before:
                await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        info = await stream_info(self._server, self.info.name)
        if stream_place(info) != self.place:
            raise SourceChanged(
                f"stream {info.name!r} was deleted and made anew at {info.created}: it is another stream now; start "
                "the mirror again and it begins with this one"
            )
        if info.last_seq < max(self.next - 1, *self._held.values(), 0):
            raise SourceChanged(self._gone_back(info.last_seq + 1))
        self.info = info

    async def _same(self, source: Source) -> None:
        """Looks whether the newest message that the topic has is still the one that it was."""
        at = source.sequence
        async with aclosing(read_stream(self._server, self.info, first=at, last=at)) as messages:
            async for message in messages:
                if message.time_ns != source.time_ns:
                    raise SourceChanged(self._gone_back(at))

    def _gone_back(self, sequence: int) -> str:
        return (
            f"stream {self.info.name!r} has gone back: its message {sequence} is not the one that topic "
            f"{self._topic.name!r} has (the server lost what it had acknowledged, or was restored from a copy); what "
            "comes under such numbers now cannot be told from what is there: mirror the stream into another topic"
        )

    async def _miss(self) -> None:
        """Says what was gone before it could be mirrored: beyond what lies in the stream's own holes nothing is lost
        in silence."""
        gone = self.info.first_seq - self.next
        if gone <= 0 or self.next == 1:
            # Of a stream that is mirrored from its beginning nobody expects what it dropped long ago.
            return
        await self._say_missed(gone, self.next, self.info.first_seq - 1)
        self.next = self.info.first_seq

    async def _miss_more(self, seen: int, last: int) -> None:
        """The same for what went while it was read: all holes that were not there when the stream was looked at."""
        first = max(self.next, self.info.first_seq)
        holes = self.info.last_seq - self.info.first_seq + 1 - self.info.messages
        gone = last - first + 1 - seen - holes
        if gone > 0:
            await self._say_missed(gone, first, last)

    async def _say_missed(self, gone: int, first: int, last: int) -> None:
        self.counts.missed += gone
        why = "removed from the stream (limits, a purge, or acknowledged by its consumers) before they were mirrored"
        logger.warning("stream %s: %d messages from %d to %d were %s", self.info.name, gone, first, last, why)
        await self._book.say(self._page("missed", f"{first}-{last}", f"{gone} messages were {why}"))

    async def _record(self, message: StreamMessage, partition: int) -> Record | None:
        """The record, or None for a message that is not to be appended."""
        if has_been(path_of(message), (self.here,)):
            self.counts.returned += 1
            return None
        try:
            record = record_of(message, self.place)
            check_record(record)
            size = encoded_bound(record)
            if size > self._most:
                raise MalformedRecord(
                    f"a record of up to {size} bytes is over the {self._most} that an append may have"
                )
        except MalformedRecord as error:
            self.counts.left_out += 1
            logger.warning("stream %s, message %d is left out: %s", self.info.name, message.sequence, error)
            await self._book.say(self._page("left-out", str(message.sequence), f"{message.subject}: {error}"))
            return None
        if message.sequence <= self._held.get(partition, 0):
            self.counts.already += 1
            return None
        return record

    async def _append(self, batch: _Batch) -> None:
        for partition, records in sorted(batch.records.items()):
            done = await deliver(self._log, self._topic.name, partition, records, POLICY)
            self.counts.copied += len(records) - done.duplicates
            self.counts.already += done.duplicates
            mark = records[-1].mark
            assert mark is not None
            self._held[partition] = mark.sequence
        batch.clear()

    def _measure(self) -> None:
        self.standing.behind = max(self.info.last_seq - self.next + 1, 0)
        if not self.standing.behind:
            self.standing.seconds_behind = 0.0

    async def _progress(self) -> None:
        """Now and then, and only while nothing is on its way: the page then says of all below that it is there."""
        sequence, when = self._written
        if time.monotonic() - when < PROGRESS_S:
            return
        if self.next - 1 != sequence:
            await self.write_progress()
            return
        # Nothing is appended, so nobody would hear that the topic went away.
        if (await self._log.topic(self._topic.name)).incarnation != self._topic.incarnation:
            raise ConfigurationError(
                f"topic {self._topic.name!r} was deleted and made anew: start the mirror again, and it begins with that"
            )
        self._written = (sequence, time.monotonic())

    async def write_progress(self) -> Page:
        """Writes into the book how far it is."""
        ends = {state.partition: state.end for state in await self._log.partitions(self._topic.name)}
        page = Page(
            kind="progress", mirror=self.id, direction="in", topic=self._topic.name,
            sequences={self.place: self.next - 1}, offsets=ends, counts=self.counts.as_dict(),
        )  # fmt: skip
        self._written = (self.next - 1, time.monotonic())
        return await self._book.say(page)

    def _page(self, kind: str, what: str, why: str) -> Page:
        return Page.model_validate(
            {"kind": kind, "mirror": self.id, "direction": "in", "topic": self._topic.name, "what": what, "why": why}
        )


class _Batch:
    """Records for some partitions that go out together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size, self._count = limit, 0, 0
        self.records: dict[int, list[Record]] = {}

    def fits(self, record: Record) -> bool:
        return not self._count or (self._size + encoded_bound(record) <= self._limit and self._count < MAX_RECORDS)

    def add(self, partition: int, record: Record) -> None:
        self.records.setdefault(partition, []).append(record)
        self._size += encoded_bound(record)
        self._count += 1

    def clear(self) -> None:
        self.records, self._size, self._count = {}, 0, 0
