"""A topic to subjects that were given: every record at least once and, within what NATS remembers, once; in order.

* It writes to the given subjects and to no other, and never makes, changes or removes anything else.
* The message id is incarnation, partition and offset of the record; the position (a consumer group's) is committed once
  the stream has acknowledged.  After a break it looks into the streams themselves for what they have already, so that
  no time limit on NATS's memory of ids can double anything.
* What came from there is not sent back (`dynlog.migrations.mirror.path`).
* Where no stream listens to a subject there are no acknowledgements: then it is at least once up to the server, and a
  record whose connection broke may come twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import xxhash

from dynlog.adapters.nats.access import NatsAccess, NatsServer
from dynlog.adapters.nats.streams import StreamInfo, stream_info
from dynlog.batch import Batch, Position, StoredRecord
from dynlog.dedupe import DedupeTable
from dynlog.errors import MalformedRecord, OffsetTruncated, SourceUnavailable
from dynlog.log import Log
from dynlog.migrations.mirror.book import Book, Page, Pages
from dynlog.migrations.mirror.counts import Counts, Standing
from dynlog.migrations.mirror.left_out import LeftOut, Refused
from dynlog.migrations.mirror.outbound import Outgoing, Subjects, to_message
from dynlog.migrations.mirror.path import (
    Path,
    has_been,
    path_of_headers,
    stream_name,
    stream_place,
    subject_place,
    topic_place,
)
from dynlog.migrations.mirror.place import in_streams
from dynlog.migrations.mirror.publisher import Ack, MessageRefused, Publisher, open_publisher
from dynlog.reader import Reader
from dynlog.topics import Topic

logger = logging.getLogger("dynlog.mirror")
PROGRESS_S = 5.0
HEARTBEAT_S = 60.0
WARM_RECORDS = 10_000
"""So far before its position it reads what an engine that leaves repeats to the reader may repeat behind it."""


def group_of(subjects: Sequence[str]) -> str:
    """The consumer group under which the mirror's position is kept."""
    return f"mirror.{xxhash.xxh3_64_hexdigest(chr(0).join(sorted(subjects)).encode())}"


async def streams_of(server: NatsServer, subjects: Sequence[str]) -> list[StreamInfo]:
    """The streams that keep what is published to those subjects."""
    names: set[str] = set()
    for subject in subjects:
        offset = 0
        while True:
            said = await server.api("STREAM.NAMES", {"subject": subject, "offset": offset})
            found = said.get("streams") or []
            names.update(found)
            offset += len(found)
            if not found or offset >= int(said.get("total", 0)):
                break
    return [await stream_info(server, name) for name in sorted(names)]


class OutwardMirror:
    """One topic's way out; `open` finds where to go on, `run` follows the topic."""

    def __init__(
        self, server: NatsServer, access: NatsAccess, log: Log, book: Book, topic: Topic, subjects: Subjects,
        begin: Literal["earliest", "end"] = "earliest", standing: Standing | None = None,
        left_out: LeftOut | None = None,
    ) -> None:  # fmt: skip
        self._server, self._access, self._log, self._book, self._topic = server, access, log, book, topic
        self._subjects, self._begin = subjects, begin
        self._here = topic_place(topic)
        self.group = group_of(subjects.given)
        self.id = f"out {self._here} {' '.join(sorted(subjects.given))}"
        self._generation = 0
        self._next: dict[int, int] = {}
        self._there: dict[int, set[int]] = {}
        self._streams: list[StreamInfo] = []
        self._sequences: dict[str, int] = {}
        self._places: dict[str, str] = {}
        self._former: set[str] = set()
        self._committed_at, self._written_at = 0.0, 0.0
        self.standing = standing or Standing("out", topic.name, " ".join(subjects.given))
        self._left_out = left_out or LeftOut(self.standing)

    @property
    def counts(self) -> Counts:
        """What it did since it was opened."""
        return self.standing.counts

    async def open(self, pages: Pages) -> None:
        """Takes the position over from whoever had it, and looks what is in the streams already."""
        self._left_out.open(pages, self.id)
        self._streams = await streams_of(self._server, self._subjects.given)
        self._places = {info.name: stream_place(info) for info in self._streams}
        known = await self._log.committed(self.group, self._topic.name)
        states = await self._log.partitions(self._topic.name)
        for state in states:
            start = state.earliest if self._begin == "earliest" else state.end
            wanted = known.positions.get(state.partition, start)
            if wanted < state.earliest:
                await self._miss(state.partition, wanted, state.earliest)
            self._next[state.partition] = max(wanted, state.earliest)
        self._generation = await self._log.open_generation(self.group, self._topic.name, self._next)
        page = pages.progress.get(self.id)
        floors = page.sequences if page is not None else {}
        if page is None and not known.positions:  # it never ran, so nothing can be there, and a past may be long
            floors = {stream_place(info): info.last_seq for info in self._streams}
        self._there = await in_streams(self._server, self._streams, self._topic.incarnation, self._next, floors)
        self._sequences = {stream_place(info): info.last_seq for info in self._streams}
        if not any(self._there.values()):
            await self.write_progress()
        self.standing.position = dict(self._next)

    async def run(self, told: Callable[[Standing], None], *, once: bool = False) -> None:
        """Follows the topic until it is cancelled, or to its end of now; ``told`` hears after every step where it is.

        Raises CommitFenced once another mirror of the same topic and subjects has begun; SourceUnavailable and
        SourceRefused; what reading and committing raise.
        """
        positions = {
            p: Position(self._topic.name, self._topic.incarnation, p, offset) for p, offset in self._next.items()
        }
        dedupe = None if self._log.capabilities.checks_marks else await self._warmed(positions)
        async with (
            open_publisher(self._access, acknowledged=bool(self._streams)) as publisher,
            Reader(self._log, positions, dedupe=dedupe) as reader,
        ):
            ends = {state.partition: state.end for state in await self._log.partitions(self._topic.name)}
            while not once or any(self._next[p] < end for p, end in ends.items()):
                batch = await reader.next(1.0)
                if batch is not None:
                    await self._publish(publisher, batch)
                self.standing.behind = reader.lag
                self.standing.seconds_behind = _age(batch) if reader.lag and batch is not None else 0.0
                await self._commit(batch)
                self._left_out.tell()
                told(self.standing)

    async def _publish(self, publisher: Publisher, batch: Batch) -> None:
        sent: list[tuple[StoredRecord, asyncio.Future[Ack]]] = []
        refused: list[Refused] = []
        there = self._there.get(batch.partition, set())
        for stored in batch:
            if stored.offset in there:
                there.discard(stored.offset)
                self.counts.already += 1
                continue
            try:
                message = await self._message(stored, publisher.max_payload)
            except MalformedRecord as error:
                refused.append((stored, error))
                continue
            if message is not None:
                sent.append((stored, await publisher.send(message)))
        await publisher.flush()
        for stored, future in sent:
            try:
                ack = future.result()
            except MessageRefused as error:
                refused.append((stored, error))
                continue
            self.counts.copied += not ack.duplicate
            self.counts.already += ack.duplicate
            if place := self._places.get(ack.stream):
                self._sequences[place] = max(self._sequences.get(place, 0), ack.sequence)
        if refused:
            await self._left_out.add(self._book, self._page("left-out"), refused)

    async def _message(self, stored: StoredRecord, max_payload: int) -> Outgoing | None:
        """The message, or None for a record that came from there; raises MalformedRecord for one that cannot go."""
        path = path_of_headers(stored.record.headers)
        await self._know(path)
        if has_been(path, self._places.values()):
            self.counts.returned += 1
            return None
        subject = self._subjects.of(stored.record)
        if has_been(path, (subject_place(subject),)):
            self.counts.returned += 1
            return None
        message = to_message(stored, self._here, self._topic.incarnation, subject)
        if message.size > max_payload:
            raise MalformedRecord(f"a message of {message.size} bytes is over the server's limit of {max_payload}")
        return message

    async def _know(self, path: Path) -> None:
        """Looks again at the streams if a record comes from another life of one of them.

        Raises SourceUnavailable if they are others now: everything about them has to be found anew.
        """
        names = {stream_name(place): place for place in path}
        for name, place in self._places.items():
            if names.get(name, place) != place and names[name] not in self._former:
                self._former.add(names[name])
                now = {info.name: stream_place(info) for info in await streams_of(self._server, self._subjects.given)}
                if now != self._places:
                    raise SourceUnavailable(f"other streams keep {' '.join(self._subjects.given)} now than before")

    async def _miss(self, partition: int, first: int, earliest: int) -> None:
        self.counts.missed += earliest - first
        why = "truncated by force, or after the mirror was away for too long, before they were mirrored"
        where = f"{partition}/{first}-{earliest - 1}"
        logger.warning("topic %s: records %s were %s", self._topic.name, where, why)
        await self._book.say(self._page("missed", where, why))

    async def _commit(self, batch: Batch | None) -> None:
        now = time.monotonic()
        if batch is not None:
            self._next[batch.partition] = batch.next_offset
        elif now - self._committed_at < HEARTBEAT_S:
            return
        await self._log.commit(self.group, self._topic.name, self._next, generation=self._generation)
        self._committed_at = now
        self.standing.position = dict(self._next)
        if batch is not None and now - self._written_at >= PROGRESS_S:
            await self.write_progress()

    async def write_progress(self) -> None:
        """Writes into the book how far it is: beyond those offsets nothing is in the streams up to those sequences."""
        self._written_at = time.monotonic()
        await self._book.say(
            self._page("progress").model_copy(
                update={"sequences": self._sequences, "offsets": self._next, "counts": self.counts.as_dict()}
            )
        )

    def _page(self, kind: Literal["progress", "left-out", "missed"], what: str = "", why: str = "") -> Page:
        return Page(kind=kind, mirror=self.id, direction="out", topic=self._topic.name, what=what, why=why)

    async def _warmed(self, positions: Mapping[int, Position]) -> DedupeTable:
        """A dedupe table that knows what lies shortly before the positions."""
        table = DedupeTable()
        for position in positions.values():
            at = position._replace(offset=max(position.offset - WARM_RECORDS, 0))
            while at.offset < position.offset:
                try:
                    batch = await self._log.read(at)
                except OffsetTruncated as error:
                    at = at._replace(offset=error.earliest)
                    continue
                before = sum(offset < position.offset for offset in batch.offsets)
                table.apply(batch.slice(0, before))
                if batch.next_offset >= position.offset or batch.next_offset >= batch.end_offset:
                    break
                at = batch.next_position
        return table


def _age(batch: Batch) -> float:
    return max(time.time() - batch.log_times[-1] / 1000, 0.0) if len(batch) else 0.0
