"""Core subjects into a topic: at most once, because NATS itself forgets what nobody takes at once.

What is received is stored once and in the order of its coming; what comes while the log is away and does not fit into
`ROOM_BYTES`, and what is published while the connection is broken, is lost.  The first is counted, of the second only
that it happened.  Where nothing may be lost, let a stream listen to the subject and mirror the stream.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats.errors

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.exchange import told as told_of
from dynlog.adapters.nats.hearing import server_has_heard
from dynlog.adapters.nats.streams import StreamMessage
from dynlog.codec import MAX_RECORDS, check_record, encoded_bound
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import DynlogError, MalformedRecord, SourceUnavailable
from dynlog.log import Log
from dynlog.migrations.mirror.book import Book, Page
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.inbound import path_of, to_record
from dynlog.migrations.mirror.path import has_been, subject_place, topic_place
from dynlog.migrations.mirror.publisher import check_permission
from dynlog.migrations.nats.spread import spread_of
from dynlog.producer import PAYLOAD_OVERHEAD
from dynlog.record import Mark, Record
from dynlog.topics import Topic

logger = logging.getLogger("dynlog.mirror")
ROOM_BYTES = 32 << 20
POLICY = DeliveryPolicy()
TELL_S = 1.0
LAST_S = 5.0


class CoreMirror:
    """What is published to a subject (or pattern), into one topic."""

    def __init__(
        self, server: NatsServer, log: Log, book: Book, subject: str, topic: Topic, partition_by: str | None = None,
        standing: Standing | None = None,
    ) -> None:  # fmt: skip
        self._server, self._log, self._book, self._subject, self._topic = server, log, book, subject, topic
        self._here = topic_place(topic)
        self._spread = spread_of(partition_by or ("subject" if topic.partitions > 1 else None), topic.partitions)
        self._producer, self._numbers = f"nats-core:{uuid.uuid4().hex}", itertools.count()
        self._room, self._came = deque[tuple[int, Record, int]](), asyncio.Event()
        self._bytes = 0
        self._refused = deque[str](maxlen=100)
        self._most = log.capabilities.max_batch_bytes - PAYLOAD_OVERHEAD
        self.standing = standing or Standing("in", subject, topic.name)

    async def run(self, told: Callable[[Standing], None]) -> None:
        """Takes what comes until it is cancelled; raises what an append raises, and SourceUnavailable."""
        try:
            subscription = await self._server.client.subscribe(self._subject, cb=self._take)
            await server_has_heard(self._server.client)
        except (nats.errors.Error, OSError) as error:
            raise SourceUnavailable(f"{self._server.shown} cannot be listened at: {told_of(error)}") from None
        check_permission(self._server)
        told(self.standing)
        try:
            while True:
                try:
                    async with asyncio.timeout(TELL_S):
                        await self._came.wait()
                except TimeoutError:
                    self._look_after_connection()
                while self._room:
                    await self._append()
                self._came.clear()
                await self._say_refused()
                told(self.standing)
        finally:
            if not self._server.client.is_closed:
                await subscription.unsubscribe()
            await self._store_rest()

    async def _store_rest(self) -> None:
        """What was taken is stored; what cannot be within `LAST_S` is missed."""
        with suppress(DynlogError, TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self._room:
                    await self._append()
        self.standing.counts.missed += len(self._room)
        self._room.clear()

    async def _take(self, message: Any) -> None:
        """Never waits: nats-py drops what is not taken, and does not say how much."""
        counts = self.standing.counts
        headers = {name: [value] for name, value in (message.headers or {}).items()}
        came = StreamMessage(next(self._numbers), message.subject, headers, message.data, time.time_ns())
        if has_been(path_of(came), (self._here,)):
            counts.returned += 1
            return
        try:
            record = to_record(came, subject_place(message.subject))
            mark = Mark(self._producer, 0, came.sequence)
            record = Record(record.parts, record.key, record.headers, record.control, record.timestamp_ms, mark)
            check_record(record)
            if (size := encoded_bound(record)) > self._most:
                raise MalformedRecord(f"{size} bytes are over the {self._most} that an append may have")
        except MalformedRecord as error:
            counts.left_out += 1
            self._refused.append(f"{message.subject}: {error}")
            self._came.set()
            return
        if self._bytes + size > ROOM_BYTES:
            counts.missed += 1
            return
        self._bytes += size
        self._room.append((self._spread(came), record, size))
        self.standing.behind = len(self._room)
        self._came.set()

    async def _append(self) -> None:
        taken: dict[int, list[Record]] = {}
        size = count = 0
        while self._room and count < MAX_RECORDS and (not count or size + self._room[0][2] <= self._most):
            partition, record, bytes_ = self._room.popleft()
            taken.setdefault(partition, []).append(record)
            size, count = size + bytes_, count + 1
        for partition, records in sorted(taken.items()):
            stored = False
            try:
                await deliver(self._log, self._topic.name, partition, records, POLICY)
                stored = True
            finally:
                self.standing.counts.missed += 0 if stored else len(records)
                self.standing.counts.copied += len(records) if stored else 0
        self._bytes -= size
        self.standing.behind = len(self._room)

    async def _say_refused(self) -> None:
        while self._refused:
            why = self._refused.popleft()
            logger.warning("a message is left out: %s", why)
            await self._book.say(
                Page(kind="left-out", mirror=f"in {subject_place(self._subject)} {self._here}", direction="in",
                     topic=self._topic.name, what=str(time.time_ns()), why=why)
            )  # fmt: skip

    def _look_after_connection(self) -> None:
        if self._server.client.ended is not None:
            raise self._server.client.ended
        check_permission(self._server)
        away = not self._server.client.there.is_set()
        if away and not self.standing.outage:
            logger.warning("%s is away: what is published to %s now is lost", self._server.shown, self._subject)
        self.standing.outage = "NATS is away" if away else ""
