"""Ingests killed with SIGKILL at random moments and started again: a reader sees the same log as without the kills."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from dynlog.adapters.dynamo_json import encode_line
from dynlog.kvevents import Kind, KvEvent, pack_hashes, unpack_hashes
from dynlog.log import Log
from dynlog.open import open_log
from tests.adapters.fake_engine import FakeEngine, stored
from tests.adapters.harness import everything, free_ports
from tests.ingest.ingest_process import TOPIC

SCRIPT = "tests.ingest.ingest_process"
ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
Process = asyncio.subprocess.Process


@asynccontextmanager
async def ingesting(*arguments: str) -> AsyncGenerator[Process, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", SCRIPT, *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def some_progress(process: Process, lines: int) -> None:
    """Waits until it said ``lines`` times that something became durable, or ended."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(lines):
            if not await process.stdout.readline():
                return


def rounds() -> int:
    """How often to kill; ``DYNLOG_KILL_ROUNDS`` sets it for a soak."""
    return int(os.environ.get("DYNLOG_KILL_ROUNDS", "4"))


async def test_a_file_ingest_that_is_killed_at_random_leaves_the_log_of_one_that_was_not(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = [KvEvent(n % 7, Kind.STORED, pack_hashes([n]), pack_hashes([n]), event_id=n) for n in range(12_000)]
    lines = [encode_line(event) for event in events]
    lines[500:500] = [b"{broken"]
    path.write_bytes(b"\n".join(lines))
    killed, whole = f"sqlite://{tmp_path}/killed.db", f"sqlite://{tmp_path}/whole.db"
    kills = 0
    for _ in range(rounds()):
        async with ingesting(killed, "file", str(path)) as process:
            await some_progress(process, random.randint(1, 12))
            kills += process.returncode is None
    assert kills > 0
    for url in (killed, killed, whole):
        async with ingesting(url, "file", str(path)) as process:
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
    contents = []
    for url in (killed, whole):
        async with open_log(url) as log:
            parked = await log.read(await log.position(f"{TOPIC}.rejected", 0))
            contents.append((await everything(log, TOPIC), [one.record.headers["place"] for one in parked]))
    assert contents[0] == contents[1]
    assert sorted(event.event_id for event in contents[0][0]) == list(range(12_000))
    assert contents[0][1] == [b"line 501"]


async def test_a_zmq_ingest_that_is_killed_at_random_stores_every_batch_once_and_clears_nothing(tmp_path: Path) -> None:
    port, replay = free_ports()
    url = f"sqlite://{tmp_path}/log.db"
    source = f"tcp://127.0.0.1:{port}?replay=tcp://127.0.0.1:{replay}&worker_id=7"
    async with FakeEngine(port, replay) as engine:
        publishing = asyncio.create_task(_publish_on_and_on(engine))
        for _ in range(rounds()):
            async with ingesting(url, "zmq", source) as process:
                await some_progress(process, random.randint(1, 20))
                assert process.returncode is None
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        async with ingesting(url, "zmq", source) as process, open_log(url) as log:
            async with asyncio.timeout(DEADLINE_S):
                while len(await everything(log, TOPIC)) < engine.sequence:
                    await some_progress(process, 1)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
            events = await everything(log, TOPIC)
    assert {event.kind for event in events} == {Kind.STORED}
    assert [unpack_hashes(event.block_hashes)[0] for event in events] == list(range(1, engine.sequence + 1))
    assert [event.event_id for event in events] == list(range(engine.sequence))


async def test_an_engine_that_is_replaced_while_the_ingest_is_dead_clears_the_worker_once(tmp_path: Path) -> None:
    port, replay = free_ports()
    url = f"sqlite://{tmp_path}/log.db"
    source = f"tcp://127.0.0.1:{port}?replay=tcp://127.0.0.1:{replay}&worker_id=7"
    for first in (1, 101, 201):
        async with FakeEngine(port, replay) as engine:
            for block in range(first, first + 20 + first):
                engine.publish(stored(block))
            async with ingesting(url, "zmq", source) as process:
                await some_progress(process, 1)
            async with ingesting(url, "zmq", source) as process, open_log(url) as log:
                async with asyncio.timeout(DEADLINE_S):
                    while not await _holds(log, first + 19 + first):
                        await some_progress(process, 1)
    async with open_log(url) as log:
        kinds = [event.kind for event in await everything(log, TOPIC)]
    assert kinds.count(Kind.CLEARED) == 2
    assert kinds.count(Kind.STORED) == 21 + 121 + 221


async def _holds(log: Log, block: int) -> bool:
    events = await everything(log, TOPIC)
    return any(event.kind is Kind.STORED and block in unpack_hashes(event.block_hashes) for event in events)


async def _publish_on_and_on(engine: FakeEngine) -> None:
    while engine.sequence < 9_000:
        engine.publish(stored(engine.sequence + 1))
        await asyncio.sleep(0.001)
