"""A NATS server with something in it, and all of it as the API shows it, to compare."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from dynlog.adapters.nats.streams import StreamMessage
from dynlog.testing.nats import NatsServer

T = TypeVar("T")


def name_of(what: str) -> str:
    """A name that no other test has."""
    return f"{what}-{uuid4().hex[:12]}"


class Configured(NatsServer):
    """A server with a few lines of configuration, and without JetStream if it says so."""

    lines = ""
    jetstream = True

    def command(self) -> Sequence[str | Path]:
        program, *options = super().command()
        if not self.jetstream:
            options = options[: options.index("--jetstream")]
        return [program, *options, "--config", self.folder / "lines.conf"]

    async def prepare(self) -> None:
        (self.folder / "lines.conf").write_text(self.lines, encoding="utf-8")


class Writer:
    """A program that uses NATS as its users do."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=10)

    async def stream(self, name: str, *, direct: bool = True, **settings: Any) -> None:
        """A stream of ``<name>.>``, in memory unless it says otherwise."""
        settings = {"storage": StorageType.MEMORY, "subjects": [f"{name}.>"], **settings}
        await self.js.add_stream(StreamConfig(name=name, allow_direct=direct, **settings))

    async def fill(self, name: str, count: int, body: bytes = b"", *, subject: str = "s") -> None:
        """Messages ``<number>`` and ``body``."""
        before = (await self.js.stream_info(name)).state.last_seq
        for number in range(before + 1, before + count + 1):
            await self.client.publish(f"{name}.{subject}", b"%d " % number + body)
            if number % 500 == 0:
                await self.client.flush()
        await self.client.flush()
        await self.reached(name, before + count)

    async def reached(self, name: str, last: int) -> None:
        """Returns once the stream has that message: what was published is stored some time after its PONG."""
        async with asyncio.timeout(30):
            while (await self.js.stream_info(name)).state.last_seq < last:
                await self.client.flush()

    async def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the server answers."""
        reply = await self.client.request(f"$JS.API.{subject}", json.dumps(request or {}).encode(), timeout=10)
        answer: dict[str, Any] = json.loads(reply.data)
        assert "error" not in answer, answer
        return answer


@asynccontextmanager
async def writing(url: str, **settings: Any) -> AsyncIterator[Writer]:
    """A writer's connection."""
    client = await nats.connect(
        url, connect_timeout=10, reconnect_time_wait=0.05, max_reconnect_attempts=-1, **settings
    )
    try:
        yield Writer(client)
    finally:
        await client.close()


async def publish_raw(url: str, subject: str, headers: bytes, data: bytes) -> None:
    """A message with any header block at all, well formed or not."""
    host, port = url.removeprefix("nats://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(10):
            await reader.readline()
            writer.write(b'CONNECT {"headers":true,"verbose":false}\r\n')
            writer.write(b"HPUB %s %d %d\r\n" % (subject.encode(), len(headers), len(headers) + len(data)))
            writer.write(headers + data + b"\r\nPING\r\n")
            while (line := await reader.readline()) != b"PONG\r\n":
                assert line.split(b" ")[0] in (b"PING\r\n", b"INFO"), line
    finally:
        writer.close()


async def everything(writer: Writer) -> dict[str, Any]:
    """All streams with configuration and state, every message and every consumer, by the API alone."""
    found: dict[str, Any] = {}
    for stream in (await writer.api("STREAM.LIST"))["streams"]:
        name = stream["config"]["name"]
        messages = []
        for sequence in range(stream["state"]["first_seq"], stream["state"]["last_seq"] + 1):
            reply = await writer.client.request(f"$JS.API.STREAM.MSG.GET.{name}", b'{"seq":%d}' % sequence, timeout=10)
            messages.append(json.loads(reply.data).get("message"))
        consumers = (await writer.api(f"CONSUMER.LIST.{name}"))["consumers"]
        for consumer in consumers:
            consumer.pop("ts", None)
        found[name] = (stream["config"], stream["created"], stream["state"], messages, consumers)
    return found


async def all_of(source: AsyncGenerator[T, None]) -> list[T]:
    """All that it yields."""
    async with aclosing(source):
        return [item async for item in source]


def sequences(messages: list[StreamMessage]) -> list[int]:
    """Where they stood."""
    return [message.sequence for message in messages]
