"""The way off NATS: ``dynlog migrate nats apply`` beside bare copy loops, each a process of its own, in turns.

To MinIO: 200 buckets of 50 objects, and one object of 2 GiB.  To SQLite: a KV bucket of 100,000 keys with history, and
a stream of 1,000,000 messages.  Time and memory are those of the whole process, from its start to its end.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.js.api import KeyValueConfig, StreamConfig
from nats.js.client import JetStreamContext

from benchmarks.report import Row
from dynlog.testing.minio import MinioServer
from dynlog.testing.nats import NatsServer

MIB = 1 << 20
OBJECT_BYTES = 16 << 10
PROVIDER = Path(__file__).resolve().parents[1] / "scripts" / "servers" / "minio.sh"
INTO = "bench"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each there is."""

    buckets: int
    objects: int
    large_mib: int
    keys: int
    messages: int


FULL, QUICK = Sizes(200, 50, 2048, 100_000, 1_000_000), Sizes(4, 10, 32, 2_000, 10_000)


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that did its work."""

    seconds: float
    peak_mib: float


def run(quick: bool) -> list[Row]:
    """Rates beside the bare loops, and the most memory that any part took."""
    program = subprocess.run([PROVIDER], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return asyncio.run(_measure(Path(folder), program, QUICK if quick else FULL))


async def _measure(folder: Path, program: str, sizes: Sizes) -> list[Row]:
    async with (
        NatsServer(folder / "nats") as server,
        MinioServer(folder / "minio", program=program) as minio,
    ):
        await minio.make_bucket(INTO)
        client = await nats.connect(server.url)
        try:
            await _fill(client, sizes)
        finally:
            await client.close()
        place = f"{minio.user}:{minio.password}@{minio.endpoint.removeprefix('http://')}/{INTO}"
        parts = (
            ("objects", "many-", "objects:many-*", sizes.buckets * sizes.objects, f"{sizes.buckets} buckets of "
             f"{sizes.objects} objects of 16 KiB", "objects/s", place),
            ("large", "large", "objects:large", sizes.large_mib, f"an object of {sizes.large_mib} MiB", "MiB/s", place),
            ("kv", "settings", "kv:settings", 2 * sizes.keys, f"KV bucket of {sizes.keys:,} keys, each put twice",
             "revisions/s", ""),
            ("kv", "plain", "kv:plain", 2 * sizes.keys, "the same, of a bucket without direct gets", "revisions/s", ""),
            ("stream", "events", "streams:events", sizes.messages, f"stream of {sizes.messages:,} messages",
             "messages/s", ""),
        )  # fmt: skip
        rows, peak = [], 0.0
        for what, name, item, count, title, unit, target in parts:
            bare = await _ended(
                "-m", "benchmarks.migrate_peers", what, server.url, name, target or f"sqlite://{folder}/{name}-bare.db"
            )
            ours = await _ended(
                "-m", "dynlog.cli", "migrate", "nats", "apply", "--nats", server.url, "--only", item,
                "--name", f"of-{what}", "--log", f"sqlite://{folder}/{name}.db",
                "--objects", minio.url(INTO, f"ours-{name}"),
            )  # fmt: skip
            peak = max(peak, ours.peak_mib)
            rows.append(
                Row(
                    title, count / ours.seconds, unit, count / bare.seconds, "" if name == "plain" else ">= 0.8x",
                    f"{ours.peak_mib:.0f} MiB; the bare loop {bare.peak_mib:.0f} MiB",
                )
            )  # fmt: skip
    return [*rows, Row("memory, the most of any part", peak, "MiB", required="<= 150")]


async def _fill(client: Client, sizes: Sizes) -> None:
    js = client.jetstream(timeout=60)
    body = os.urandom(OBJECT_BYTES)

    async def bucket(number: int) -> None:
        store = await js.create_object_store(f"many-{number:03}")
        for each in range(sizes.objects):
            await store.put(f"object {each}", body)

    for first in range(0, sizes.buckets, 20):
        await asyncio.gather(*(bucket(number) for number in range(first, min(first + 20, sizes.buckets))))
    store = await js.create_object_store("large")
    with tempfile.TemporaryFile() as file:  # nats-py looks into what is no file, and finds nothing in a `BytesIO`
        piece = os.urandom(MIB)
        for _ in range(sizes.large_mib):
            file.write(piece)
        file.seek(0)
        info = await store.put("large", file)
    assert info.size == sizes.large_mib * MIB
    for name, direct in (("settings", True), ("plain", False)):  # as Dynamo's client makes buckets, and as nats-py does
        await js.create_key_value(KeyValueConfig(name, history=2, direct=direct))
        for turn in range(2):
            await _publish(client, f"$KV.{name}.key.%d", sizes.keys, b"value %d " % turn + b"x" * 56)
    await js.add_stream(StreamConfig("events", subjects=["events.*"], allow_direct=True))
    await _publish(client, "events.%d", sizes.messages, b"x" * 128, subjects=1000)
    await _stored(js, {"KV_settings": 2 * sizes.keys, "KV_plain": 2 * sizes.keys, "events": sizes.messages})


async def _publish(client: Client, subject: str, count: int, body: bytes, subjects: int | None = None) -> None:
    for number in range(count):
        await client.publish(subject % (number % subjects if subjects else number), body)
        if number % 5000 == 0:
            await client.flush(60)
    await client.flush(60)


async def _stored(js: JetStreamContext, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        async with asyncio.timeout(120):
            while (await js.stream_info(name)).state.messages < count:  # noqa: ASYNC110 - it is the server that stores
                await asyncio.sleep(0.1)


async def _ended(*arguments: str) -> Ended:
    """Runs Python with these arguments; raises CalledProcessError unless it ends well."""

    def work() -> Ended:
        begun = time.perf_counter()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen([sys.executable, *arguments], stdout=said, stderr=said)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise RuntimeError(f"{arguments} ended with {process.returncode}: {said.read()[-2000:]!r}")
        return Ended(time.perf_counter() - begun, used.ru_maxrss / 1024)

    return await asyncio.to_thread(work)
