"""Dynamo's events on NATS: of the real publisher on core subjects, and of a stream, each stored once and in order."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import nats.errors
import pytest
from nats.js.api import StorageType

from dynlog.adapters.dynamo_envelope import Envelope, encode_frame
from dynlog.adapters.dynamo_json import encode_line, router_event
from dynlog.adapters.dynamo_nats import nats_items
from dynlog.adapters.dynamo_nats_source import parse_nats_source
from dynlog.adapters.nats.names import Component, events_stream
from dynlog.errors import ConfigurationError, SourceRefused
from dynlog.ingest import IngestStats, ingest
from dynlog.ingest_items import Item, Noticed, NoticeKind
from dynlog.kvevents import Kind, KvEvent, decode_events, pack_hashes, unpack_hashes
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.testing.kinds import RunningServer
from dynlog.testing.nats import NatsServer as Served
from dynlog.testing.process import free_port
from tests.adapters.test_dynamo_zmq import command
from tests.house.repository import REPOSITORY
from tests.nats_source.source import Configured, Writer, name_of, writing

TOPIC = "kv"
PATIENCE_S = 30.0


def stored(worker_id: int, *blocks: int) -> KvEvent:
    return KvEvent(worker_id, Kind.STORED, pack_hashes(list(blocks)), pack_hashes(list(blocks)))


def frame(sequence: int, *events: KvEvent, publisher: int = 7) -> bytes:
    payload = msgpack.packb([router_event(event) for event in events])
    return encode_frame(Envelope("kv-events", publisher, sequence, 1, payload), framed=False)


class Ingest:
    """An ingest into a log of its own, and what is stored there."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.stats = IngestStats()
        self._changed = asyncio.Event()

    def progressed(self, stats: IngestStats) -> None:
        self.stats = stats
        self._changed.set()

    async def stored(self, events: int, *, rejected: int = 0) -> list[tuple[int, list[int]]]:
        """(worker, blocks) of all events in the log once there are so many, and so many were refused."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await self._found()) < events or self.stats.rejected < rejected:
                self._changed.clear()
                await self._changed.wait()
        return found

    async def _found(self) -> list[tuple[int, list[int]]]:
        return [
            (event.worker_id, list(unpack_hashes(event.block_hashes)))
            for one in await self.log.read(await self.log.position(TOPIC, 0))
            for event in decode_events(one.record.key, one.record.parts)
        ]


@asynccontextmanager
async def ingesting(log: Log, *urls: str) -> AsyncIterator[Ingest]:
    """Ingests until the block ends, then stops as on SIGTERM."""
    await log.create_topic(TOPIC, exist_ok=True)
    running, stop = Ingest(log), asyncio.Event()
    sources = [parse_nats_source(url) for url in urls]
    task = asyncio.create_task(ingest(log, TOPIC, nats_items(sources), stop=stop, progress=running.progressed))
    try:
        yield running
    finally:
        stop.set()
        await task


@asynccontextmanager
async def noticed(*urls: str) -> AsyncIterator[AsyncIterator[Item]]:
    async with aclosing(nats_items([parse_nats_source(url) for url in urls])) as items:
        yield items


async def until(items: AsyncIterator[Item], kind: NoticeKind) -> Noticed:
    async with asyncio.timeout(PATIENCE_S):
        async for item in items:
            if isinstance(item, Noticed) and item.kind is kind:
                return item
    raise AssertionError("the source ended")


async def test_a_stream_is_read_from_its_start_followed_and_resumed_without_a_consumer(
    nats_server: RunningServer, writer: Writer
) -> None:
    component = Component(name_of("ns"), "back_end")
    stream = events_stream(component)
    await writer.stream(stream, subjects=[f"{stream}.*"])
    url = f"{nats_server.url}/{component.namespace}/{component.component}"
    for block in (1, 2):
        await writer.js.publish(f"{stream}.queue", encode_line(stored(9, block)))
    await writer.js.publish(f"{stream}.queue", b"{no event")
    async with open_log("memory://") as log:
        async with ingesting(log, url) as running:
            assert await running.stored(2, rejected=1) == [(9, [1]), (9, [2])]
            await writer.js.publish(f"{stream}.kv-events", encode_line(stored(9, 3)))
            assert await running.stored(3) == [(9, [1]), (9, [2]), (9, [3])]
        await writer.js.publish(f"{stream}.queue", encode_line(stored(8, 4)))
        async with ingesting(log, url) as running:
            assert await running.stored(4) == [(9, [1]), (9, [2]), (9, [3]), (8, [4])]
            assert running.stats.repeats == 4
        assert (await log.topic(f"{TOPIC}.rejected")).partitions == 1
    assert (await writer.js.stream_info(stream)).state.consumer_count == 0


async def listened_to(writer: Writer, subject: str, first: bytes) -> None:
    """Sends the first message as soon as somebody is there to hear it: core NATS forgets what nobody hears."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await writer.client.request(subject, first, timeout=0.1)
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.02)
            except nats.errors.TimeoutError:
                return


async def test_core_events_are_taken_once_with_and_without_an_endpoint_in_the_subject(
    nats_server: RunningServer, writer: Writer
) -> None:
    namespace = name_of("ns")
    subject = f"namespace.{namespace}.component.backend"
    async with open_log("memory://") as log, ingesting(log, f"{nats_server.url}/{namespace}/backend") as running:
        await listened_to(writer, f"{subject}.endpoint.generate.kv-events", frame(0, stored(1, 10), stored(2, 20)))
        await writer.client.publish(f"{subject}.kv-events", frame(0, stored(1, 10)))
        await writer.client.publish(f"{subject}.kv-events", b"\x01nothing")
        await writer.client.publish(f"{subject}.other", frame(4, stored(1, 12)))
        await writer.client.publish(f"{subject}.endpoint.generate.kv-events", frame(3, stored(1, 11)))
        assert await running.stored(3, rejected=1) == [(1, [10]), (2, [20]), (1, [11])]
        assert (running.stats.notices[NoticeKind.GAP], running.stats.missing) == (1, 2)
        assert running.stats.notices[NoticeKind.DUPLICATE] <= 1


async def test_events_of_the_publisher_of_ai_dynamo_runtime_arrive(tmp_path: Path, nats_server: RunningServer) -> None:
    script = str(REPOSITORY / "tests" / "adapters" / "dynamo_publisher.py")
    environment = os.environ | {"DYN_FILE_KV": str(tmp_path), "NATS_SERVER": nats_server.url, "DYN_LOG": "error"}
    async with open_log("memory://") as log, ingesting(log, f"{nats_server.url}/demo/backend?from=core") as running:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, "nats", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=environment,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), PATIENCE_S) == b"ready\n"
            await command(process, "store 11 -12")
            await command(process, "remove 11")
            found = await running.stored(2)
        finally:
            process.kill()
            await process.wait()
    assert found == [(4242, [11, 2**64 - 12]), (4242, [11])]


async def acknowledged(writer: Writer, stream: str, *, but: int) -> Any:
    """Waits until all but so many of what was given are acknowledged."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info = await writer.js.consumer_info(stream, "router")
            if (info.num_ack_pending or 0) <= but:
                return info
            await asyncio.sleep(0.02)


async def test_a_durable_consumer_that_was_asked_for_is_acknowledged_once_events_are_durable_and_goes_on_there(
    nats_server: RunningServer, writer: Writer
) -> None:
    stream = name_of("events")
    await writer.stream(stream, subjects=[f"{stream}.*"])
    for block in range(1, 6):
        await writer.js.publish(f"{stream}.queue", encode_line(stored(9, block)))
    # Somebody took three and acknowledged one: the other two are given again only after a while, behind what is new.
    earlier = await writer.js.pull_subscribe(f"{stream}.*", durable="router", stream=stream)
    await (await earlier.fetch(3))[0].ack_sync()
    async with open_log("memory://") as log:
        async with ingesting(log, f"{nats_server.url}?stream={stream}&consumer=router") as running:
            assert await running.stored(4) == [(9, [2]), (9, [3]), (9, [4]), (9, [5])]
            await writer.js.publish(f"{stream}.queue", b"{no event")
            await writer.js.publish(f"{stream}.queue", encode_line(stored(9, 7)))
            assert (await running.stored(5, rejected=1))[-1] == (9, [7])
            info = await acknowledged(writer, stream, but=2)
            assert info.delivered.stream_seq == 7
        assert (await writer.js.stream_info(stream)).state.consumer_count == 1


async def test_events_that_were_deleted_before_they_were_read_and_a_stream_that_is_made_anew_are_said(
    nats_server: RunningServer, writer: Writer
) -> None:
    stream = name_of("events")
    async with noticed(f"{nats_server.url}?stream={stream}") as items:
        assert "it is waited for" in (await until(items, NoticeKind.SOURCES)).detail
        await writer.stream(stream, subjects=[f"{stream}.*"])
        for block in range(1, 5):
            await writer.js.publish(f"{stream}.queue", encode_line(stored(9, block)))
    await writer.js.delete_msg(stream, 2)
    await writer.js.delete_msg(stream, 3)
    async with noticed(f"{nats_server.url}?stream={stream}") as items:
        assert (await until(items, NoticeKind.GAP)).times == 2
        await writer.js.delete_stream(stream)
        await writer.stream(stream, subjects=[f"{stream}.*"])
        while "was made anew" not in (await until(items, NoticeKind.SOURCES)).detail:
            pass


async def test_a_server_that_goes_away_is_said_and_its_stream_is_followed_when_it_is_back(tmp_path: Path) -> None:
    async with Served(tmp_path / "nats") as server:
        async with writing(server.url) as writer:
            await writer.stream("s", subjects=["s.*"], storage=StorageType.FILE)
            await writer.js.publish("s.queue", encode_line(stored(9, 1)))
        async with open_log("memory://") as log, ingesting(log, f"{server.url}?stream=s") as running:
            await running.stored(1)
            await server.kill()
            await server.start()
            async with writing(server.url) as writer:
                await writer.js.publish("s.queue", encode_line(stored(9, 2)))
            assert await running.stored(2) == [(9, [1]), (9, [2])]
            assert running.stats.notices[NoticeKind.WAITING] == 2
            assert not running.stats.unreached


async def test_a_server_that_is_never_reached_is_named_and_a_login_that_is_refused_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.adapters.reach.UNREACHED_S", 0.05)
    async with noticed(f"nats://127.0.0.1:{free_port()}/a/b") as items:
        said = (await until(items, NoticeKind.UNREACHED)).detail
        assert said.endswith("nothing listens there: start it, or correct host and port")
    server = Configured(tmp_path / "nats")
    server.lines = """authorization { users: [
        { user: u, password: p, permissions: { subscribe: ["_INBOX.>", "namespace.a.component.b.kv-events"] } } ] }"""
    async with server:
        async with noticed(f"{server.url}/a/b") as items:
            with pytest.raises(SourceRefused, match="does not let this user in"):
                await until(items, NoticeKind.GAP)
        async with noticed(f"nats://u:p@127.0.0.1:{server.port}/a/b") as items:
            with pytest.raises(SourceRefused, match=r"listen at 'namespace\.a\.component\.b\.endpoint"):
                await until(items, NoticeKind.GAP)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://h:1", "/NAMESPACE/COMPONENT is needed"),
        ("nats://h:1/a", "/NAMESPACE/COMPONENT is needed"),
        ("nats://h:1/a/b/c", "/NAMESPACE/COMPONENT is needed"),
        ("nats://h:1/a*/b", "cannot be part of a NATS subject"),
        ("nats://h:1/a/b?from=kafka", "core or stream is needed"),
        ("nats://h:1/a/b?from=core&consumer=x", "from=core reads no stream"),
        ("nats://h:1?stream=x&from=core", "from=core reads no stream"),
        ("nats://h:1/a/b?topic=x", "unknown option 'topic'"),
        ("tcp://h:1/a/b", "is no NATS source"),
    ],
)
def test_a_source_that_means_nothing_is_refused_by_name(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        parse_nats_source(url)


def test_a_source_is_printed_without_its_secrets() -> None:
    source = parse_nats_source("nats://u:s3cret@h:1/demo/backend")
    assert str(source) == "nats://h:1/demo/backend"
    assert "s3cret" not in repr(source)
    assert source.stream == "namespace-demo-component-backend-kv-events"
    assert source.subjects == (
        "namespace.demo.component.backend.kv-events", "namespace.demo.component.backend.endpoint.*.kv-events",
    )  # fmt: skip
