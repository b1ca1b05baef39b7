"""Networks and logs that misbehave: nothing is lost in silence, nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from dynlog.kvevents import Kind, unpack_hashes
from dynlog.log import Log
from dynlog.open import open_log
from tests.adapters.fake_engine import FakeEngine, stored
from tests.adapters.harness import TOPIC, Watcher, everything, free_ports, holds, ingesting, kinds, source_at
from tests.faulty import FaultyLog


@pytest.fixture
async def log() -> AsyncGenerator[Log, None]:
    async with open_log("memory://") as opened:
        await opened.create_topic(TOPIC)
        yield opened


class DeafProxy:
    """Forwards TCP; once `deafened`, connections that exist stay open and say nothing more, new ones work."""

    def __init__(self) -> None:
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def deafen(self) -> None:
        self._generation += 1

    @asynccontextmanager
    async def listening(self, port: int, target: int) -> AsyncGenerator[None, None]:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", target)
            generation = self._generation
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._forward(reader, onward_writer, generation))
                    group.create_task(self._forward(onward_reader, writer, generation))
            finally:
                writer.close()
                onward_writer.close()

        server = await asyncio.start_server(accepted, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generation: int) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if generation == self._generation:
                    writer.write(data)


async def test_a_connection_that_went_silent_is_noticed_and_what_was_missed_is_fetched(log: Log) -> None:
    port, replay, engine_port = free_ports(3)
    proxy = DeafProxy()
    async with (
        FakeEngine(engine_port, replay) as engine,
        proxy.listening(port, engine_port),
        ingesting(log, [source_at(port, replay)], heartbeat_s=0.1) as running,
    ):
        await engine.subscribed()
        engine.publish(stored(1))
        await Watcher(log).until(holds(1))
        proxy.deafen()
        await engine.subscribed()  # again: the heartbeat gave the silent connection up
        engine.publish(stored(2))
        await Watcher(log).until(holds(1, 2))
    assert running.stats.as_dict()["clears"] == 0


async def test_what_overflows_while_the_log_is_slow_is_filled_from_the_replay(log: Log) -> None:
    port, replay = free_ports()
    faulty = FaultyLog(log)
    count = 1
    async with (
        FakeEngine(port, replay, buffer=1_000_000, send_hwm=50) as engine,
        ingesting(faulty.log, [source_at(port, replay)], max_unacknowledged_bytes=64 << 10) as running,
    ):
        await engine.subscribed()
        engine.publish(stored(count))
        await Watcher(log).until(holds(count))  # so that it follows, and does not catch up any more
        faulty.gate.clear()
        while not engine.overflowed:
            count += 1
            engine.publish(stored(count))
            if count % 50 == 0:
                await asyncio.sleep(0)
        faulty.gate.set()
        lost = -1
        while lost != engine.overflowed:  # the first that comes through shows that some are missing
            lost = engine.overflowed
            count += 1
            engine.publish(stored(count))
            await asyncio.sleep(0)
        events = await Watcher(log).until(lambda seen: len(seen) == count)
    assert [unpack_hashes(event.block_hashes)[0] for event in events] == list(range(1, count + 1))
    counters = running.stats.as_dict()
    assert counters["gaps"] > 0
    assert counters["clears"] == 0


async def test_a_replay_socket_that_never_answers_does_not_hold_an_engine_up_for_ever(log: Log) -> None:
    port, silent = free_ports()
    async with FakeEngine(port) as engine, ingesting(log, [source_at(port, silent)], replay_timeout_s=0.05) as running:
        await engine.subscribed()
        engine.publish(stored(1))
        engine.publish(stored(2))
        await Watcher(log).until(holds(1, 2))
    assert running.stats.as_dict()["unverified"] > 0


async def test_a_stop_while_the_engine_is_dead_returns_at_once(log: Log) -> None:
    port, replay = free_ports()
    async with asyncio.timeout(5), ingesting(log, [source_at(port, replay)]):
        await asyncio.sleep(0)
    assert await everything(log) == []


async def test_events_of_an_engine_that_says_nonsense_are_parked_and_its_batches_count_as_taken(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine:
        engine.publish(stored(1))
        engine.publish_payload(b"nonsense")
        engine.publish(stored(2), {"type": "BlockEaten"})
        for _ in range(2):
            async with ingesting(log, [source_at(port, replay)]) as running:
                events = await Watcher(log).until(holds(1, 2))
    assert kinds(events) == [Kind.STORED] * 2
    assert running.stats.rejected == 0  # the second ingest had nothing left to refuse
    parked = await log.read(await log.position(f"{TOPIC}.rejected", 0))
    assert [one.record.headers["place"] for one in parked] == [b"batch 1", b"batch 2"]
