"""Kafka: dynlog beside plain aiokafka doing the same work on the same broker in the same run, and follow latency.

The peer of the appends is an idempotent AIOKafkaProducer with acks=all that sends the same records in equal batches
(``send_batch``: as atomic as an append), as many in flight; the peer of the replay is an AIOKafkaConsumer that reads
the very topic that dynlog wrote.  Rounds alternate and the best of each counts: other load only slows one down.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.follow import IDLE_S, publish
from benchmarks.report import Row
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.reader import Reader
from dynlog.record import Mark, Record
from dynlog.testing.kafka import KafkaServer

BODY = 256
PER_APPEND = 100
IN_FLIGHT = 8
ROUNDS = 3
PROGRAM = Path(__file__).resolve().parents[1] / "scripts" / "servers" / "kafka.sh"


def run(quick: bool) -> list[Row]:
    """Appends, replay, follow."""
    program = Path(subprocess.run([PROGRAM], capture_output=True, text=True, check=True).stdout.strip())
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return asyncio.run(_measure(Path(folder), program, 100 if quick else 1_000, 200 if quick else 1_000))


async def _measure(folder: Path, program: Path, appends: int, published: int) -> list[Row]:
    async with KafkaServer(folder / "kafka", program) as server:
        prefix = uuid4().hex
        ours: dict[str, list[float]] = {"append": [], "one": [], "replay": []}
        plain: dict[str, list[float]] = {"append": [], "one": [], "replay": []}
        async with open_log(f"kafka://{server.address}/{prefix}") as log:
            for name in ("ours", "theirs", "small"):
                await log.create_topic(name)
            producer = AIOKafkaProducer(bootstrap_servers=server.address, enable_idempotence=True, acks="all")
            await producer.start()
            try:
                for _ in range(ROUNDS):
                    ours["append"].append(await _ours(log, "ours", appends, PER_APPEND, IN_FLIGHT))
                    plain["append"].append(await _theirs(producer, f"{prefix}.theirs", appends, PER_APPEND, IN_FLIGHT))
                    ours["one"].append(await _ours(log, "small", appends // 2, 1, 1))
                    plain["one"].append(await _theirs(producer, f"{prefix}.small", appends // 2, 1, 1))
            finally:
                await producer.stop()
            for _ in range(ROUNDS):
                ours["replay"].append(await _replay(log, "ours", ROUNDS * appends * PER_APPEND))
                plain["replay"].append(
                    await _consume(server, f"{prefix}.ours", ROUNDS * appends * PER_APPEND)
                )  # fmt: skip
        found = await publish(f"kafka://{server.address}/{uuid4().hex}", published)
    return [*_beside(ours, plain), *_follow(found)]


def _beside(ours: dict[str, list[float]], plain: dict[str, list[float]]) -> list[Row]:
    names = {
        "append": f"append of {PER_APPEND} records of {BODY} B, {IN_FLIGHT} in flight",
        "one": f"append of one record of {BODY} B, one in flight",
        "replay": f"replay of records of {BODY} B, with marks",
    }
    return [
        Row(
            name,
            max(ours[key]),
            "records/s",
            max(plain[key]),
            "" if key == "one" else ">= 0.8x",
            "peer: plain aiokafka, same broker",
        )
        for key, name in names.items()
    ]


def _follow(found: dict[str, list[float] | float]) -> list[Row]:
    latencies, appends, idle = found["latencies"], found["appends"], found["idle"]
    assert isinstance(latencies, list)
    assert isinstance(appends, list)
    assert isinstance(idle, float)
    rows = [
        Row(
            f"follow p{share}", statistics.quantiles(latencies, n=100)[share - 1], "ms",
            statistics.quantiles(appends, n=100)[share - 1], "",
            "from before the append to seen in another process; peer: the append's own acknowledgement",
        )
        for share in (50, 99)
    ]  # fmt: skip
    return [*rows, Row("idle follower", idle * 100, "% of a core", required="<= 1", note=f"over {IDLE_S:g} s")]


async def _many(times: int, in_flight: int, step: Callable[[int], Awaitable[object]]) -> float:
    """Steps per second."""
    numbers = iter(range(times))

    async def work() -> None:
        for number in numbers:
            await step(number)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return times / (time.perf_counter() - start)


async def _ours(log: Log, topic: str, appends: int, per_append: int, in_flight: int) -> float:
    body, producer = os.urandom(BODY), uuid4().hex

    async def step(number: int) -> None:
        first = number * per_append
        records = [Record(parts=(body,), mark=Mark(producer, 1, first + i)) for i in range(per_append)]
        await log.append(topic, 0, records)

    return per_append * await _many(appends, in_flight, step)


async def _theirs(producer: AIOKafkaProducer, topic: str, appends: int, per_append: int, in_flight: int) -> float:
    body, name = os.urandom(BODY), uuid4().hex.encode()

    async def step(number: int) -> None:
        batch, first = producer.create_batch(), number * per_append
        for i in range(per_append):
            mark = struct.pack(">qq", 1, first + i) + name
            batch.append(key=None, value=body, timestamp=None, headers=[("dl.mark", mark)])
        batch.close()
        await (await producer.send_batch(batch, topic, partition=0))

    return per_append * await _many(appends, in_flight, step)


async def _replay(log: Log, topic: str, count: int) -> float:
    start, seen = time.perf_counter(), 0
    async with await Reader.open(log, topic) as reader:
        while seen < count:
            batch = await reader.next(wait=10)
            assert batch is not None
            for body in batch.bodies:
                seen += len(body)
    return count / (time.perf_counter() - start)


async def _consume(server: KafkaServer, topic: str, count: int) -> float:
    consumer = AIOKafkaConsumer(bootstrap_servers=server.address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        start, seen = time.perf_counter(), 0
        consumer.assign([TopicPartition(topic, 0)])
        while seen < count:
            for messages in (await consumer.getmany(timeout_ms=1000)).values():
                for _ in messages:
                    seen += 1
        return count / (time.perf_counter() - start)
    finally:
        await consumer.stop()
