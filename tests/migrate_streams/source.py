"""A NATS server with something in it, and a run of movers against a log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.errors import TopicNotFound
from dynlog.log import Log
from dynlog.migrations.nats.contract import Choices, Difference, Item, Limits, Mover, Outcome, Run
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.plan import Plan, make_plan
from dynlog.migrations.nats.survey import look_around
from dynlog.objects import ObjectStore
from dynlog.open import open_objects

MIGRATION = "test"


@dataclass
class Source:
    """The server as an application sees it (``client``, ``js``) and as a migration does (``server``)."""

    client: Client
    js: JetStreamContext
    server: NatsServer
    place: tuple[str, int]

    async def stream(self, name: str, *subjects: str, **config: Any) -> None:
        """A stream, in memory: a file store may still be removing the one of that name that a test before had."""
        config.setdefault("storage", StorageType.MEMORY)
        await self.js.add_stream(StreamConfig(name=name, subjects=list(subjects), **config))

    async def fill(self, subject: str, count: int, *, start: int = 1) -> None:
        """Messages ``<subject> 1`` and so on."""
        for number in range(start, start + count):
            await self.js.publish(subject, f"{subject} {number}".encode())

    async def raw(self, command: bytes) -> None:
        """Sends what nats-py cannot."""
        reader, writer = await asyncio.open_connection(*self.place)
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + command + b"PING\r\n")
        while await reader.readline() != b"PONG\r\n":
            pass
        writer.close()
        await writer.wait_closed()

    async def picture(self) -> Any:
        """Everything that the API says of streams, their messages and consumers, for a comparison."""
        said: dict[str, Any] = {}
        for info in await self.js.streams_info():
            name = info.config.name
            assert name is not None
            stream = await self.server.api(f"STREAM.INFO.{name}")
            consumers = await self.server.api(f"CONSUMER.LIST.{name}")
            for answer in (stream, consumers):
                answer.pop("ts", None)
                for consumer in answer.get("consumers") or ():
                    consumer.pop("ts", None)
            messages = []
            for sequence in range(info.state.first_seq, min(info.state.last_seq, info.state.first_seq + 50) + 1):
                try:
                    messages.append((await self.server.api(f"STREAM.MSG.GET.{name}", {"seq": sequence}))["message"])
                except Exception as error:
                    messages.append(str(error))
            said[name] = (stream, consumers, messages)
        return said


@asynccontextmanager
async def open_source(url: str) -> AsyncIterator[Source]:
    """The server, emptied."""
    async with open_nats(NatsAccess(url)) as server:
        client = Client()
        await client.connect(url, allow_reconnect=True, connect_timeout=10)
        try:
            js = client.jetstream(timeout=10)
            for info in await js.streams_info():
                assert info.config.name is not None
                await js.delete_stream(info.config.name)
            where = urlsplit(url)
            assert where.hostname
            assert where.port
            yield Source(client, js, server, (where.hostname, where.port))
        finally:
            await client.close()


@dataclass
class Migration:
    """A mover at work: each call is a process of its own, as far as the log can tell."""

    mover: Mover
    server: NatsServer
    log: Log
    choices: Choices = field(default_factory=Choices)

    async def plan(self) -> list[Item]:
        """The items."""
        async with open_objects("memory://migration-test") as objects:
            return await self.mover.plan(await look_around(MIGRATION, self.server, self.log, objects, self.choices))

    async def whole_plan(self, **chosen: Sequence[str]) -> Plan:
        """What the command would show of this mover."""
        async with open_objects("memory://migration-test") as objects:
            survey = await look_around(MIGRATION, self.server, self.log, objects, self.choices)
            return await make_plan(survey, movers=[self.mover], **chosen)

    async def planned(self, source: str) -> Item:
        """The item of that source."""
        (item,) = [item for item in await self.plan() if item.source == source]
        return item

    async def apply(self, item: Item, **more: Any) -> Outcome:
        """As the command does it for one item."""
        async with self._run(**more) as run:
            await run.journal.begin(item, "nats://test")
            outcome = await self.mover.apply(item, run)
            await run.journal.end(outcome)
            return outcome

    async def verify(self, item: Item) -> list[Difference]:
        """What differs."""
        async with self._run() as run:
            return await self.mover.verify(item, run)

    async def rollback(self, item: Item) -> Outcome:
        """Takes it back."""
        async with self._run() as run:
            outcome = await self.mover.rollback(item, run)
            await run.journal.taken_back(outcome)
            return outcome

    @asynccontextmanager
    async def _run(self, **more: Any) -> AsyncIterator[Run]:
        async with open_objects("memory://migration-test") as objects, Journal.write(self.log, MIGRATION) as journal:
            yield _make_run(self.server, self.log, objects, journal, self.choices, **more)


def _make_run(
    server: NatsServer, log: Log, objects: ObjectStore, journal: Journal, choices: Choices, **more: Any
) -> Run:
    progress = more.get("progress", lambda item, names, size: None)
    limits = Limits(bytes_per_s=more.get("bytes_per_s"))
    return Run(MIGRATION, server, log, objects, journal, limits, choices, progress)


async def stopped_anywhere(moving: Migration, item: Item, dice: random.Random) -> set[int]:
    """Applies that are cancelled at random places, behind an append as well as anywhere; where the target ended."""
    topic = item.target if item.kind == "streams" else f"dynlog.kv.{item.target}"
    ends = set()
    for turn in range(8):
        await (_stopped_soon(moving, item, dice) if turn % 2 else _stopped_behind(moving, item, dice))
        with suppress(TopicNotFound):
            ends.add((await moving.log.partitions(topic))[0].end)
    return ends


async def _stopped_behind(moving: Migration, item: Item, dice: random.Random) -> None:
    appends = iter(range(dice.randrange(1, 4)))
    next(appends)

    def told(*_: object) -> None:
        if next(appends, None) is None:
            applying.cancel()

    applying = asyncio.create_task(moving.apply(item, progress=told))
    await asyncio.gather(applying, return_exceptions=True)


async def _stopped_soon(moving: Migration, item: Item, dice: random.Random) -> None:
    applying = asyncio.create_task(moving.apply(item))
    for _ in range(dice.randrange(300)):
        await asyncio.sleep(0)
    applying.cancel()
    await asyncio.gather(applying, return_exceptions=True)
