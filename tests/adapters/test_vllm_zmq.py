"""Real sockets on loopback: what a vLLM engine publishes is in the log once, in order, and a break is never silent."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from dynlog.kvevents import Kind
from dynlog.log import Log
from dynlog.open import open_log
from tests.adapters.fake_engine import FakeEngine, removed, stored
from tests.adapters.harness import TOPIC, Watcher, everything, free_ports, held, holds, ingesting, kinds, source_at


@pytest.fixture
async def log() -> AsyncGenerator[Log, None]:
    async with open_log("memory://") as opened:
        await opened.create_topic(TOPIC)
        yield opened


async def test_live_batches_are_stored_in_order_with_marks_of_the_engine(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]):
        await engine.subscribed()
        for block in range(1, 6):
            engine.publish(stored(block, parent=block - 1 or None))
        engine.publish(removed(5))
        watcher = Watcher(log)
        events = await watcher.until(lambda events: len(events) >= 6)
    assert holds(1, 2, 3, 4)(events)
    assert [event.event_id for event in events] == [0, 1, 2, 3, 4, 5]
    producers = {producer for producer, _ in watcher.marks}
    assert len(producers) == 1
    assert producers.pop().startswith("vllm-7-0-")
    assert [sequence for _, sequence in watcher.marks] == [0, 1, 2, 3, 4, 5]


async def test_what_was_published_before_the_ingest_started_comes_from_the_replay(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine:
        engine.publish(stored(1))
        engine.publish(stored(2, parent=1))
        async with ingesting(log, [source_at(port, replay)]) as running:
            await Watcher(log).until(holds(1, 2))
    assert running.stats.as_dict()["gaps"] == running.stats.as_dict()["clears"] == 0


@pytest.mark.parametrize("old_shape", [False, True], ids=["replies-of-0.33", "older-replies"])
async def test_a_gap_is_filled_from_the_replay_and_counted(log: Log, old_shape: bool) -> None:
    port, replay = free_ports()
    async with (
        FakeEngine(port, replay, old_shape=old_shape) as engine,
        ingesting(log, [source_at(port, replay)]) as running,
    ):
        await engine.subscribed()
        engine.publish(stored(1))
        await Watcher(log).until(holds(1))
        engine.publish(stored(2, parent=1), send=False)
        engine.publish(stored(3, parent=2), send=False)
        engine.publish(stored(4, parent=3))
        events = await Watcher(log).until(holds(1, 2, 3, 4))
    assert kinds(events) == [Kind.STORED] * 4
    counters = running.stats.as_dict()
    assert (counters["gaps"], counters["missing"], counters["clears"]) == (1, 2, 0)


async def test_a_lost_last_batch_is_found_although_nothing_comes_after_it(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]):
        await engine.subscribed()
        engine.publish(stored(1))
        await Watcher(log).until(holds(1))
        engine.publish(stored(2, parent=1), send=False)
        await Watcher(log).until(holds(1, 2))


async def test_a_gap_that_the_replay_no_longer_covers_clears_the_worker_and_rebuilds_from_what_it_offers(
    log: Log,
) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay, buffer=2) as engine:
        async with ingesting(log, [source_at(port, replay)]):
            await engine.subscribed()
            engine.publish(stored(1))
            await Watcher(log).until(holds(1))
        for block in range(2, 8):
            engine.publish(stored(block, parent=block - 1))
        async with ingesting(log, [source_at(port, replay)]) as running:
            events = await Watcher(log).until(holds(6, 7))
    assert kinds(events) == [Kind.STORED, Kind.CLEARED, Kind.STORED, Kind.STORED]
    counters = running.stats.as_dict()
    assert (counters["gaps"], counters["missing"], counters["clears"]) == (1, 4, 1)


async def test_a_gap_without_a_replay_socket_clears_the_worker(log: Log) -> None:
    (port,) = free_ports(1)
    async with FakeEngine(port) as engine, ingesting(log, [source_at(port)]) as running:
        await engine.subscribed()
        engine.publish(stored(1))
        engine.publish(stored(2, parent=1), send=False)
        engine.publish(stored(3))
        events = await Watcher(log).until(holds(3))
    assert kinds(events) == [Kind.STORED, Kind.CLEARED, Kind.STORED]
    assert running.stats.as_dict()["clears"] == 1


async def test_a_restarted_engine_clears_what_the_old_one_held(log: Log) -> None:
    port, replay = free_ports()
    async with ingesting(log, [source_at(port, replay)]) as running:
        async with FakeEngine(port, replay) as engine:
            await engine.subscribed()
            for block in (1, 2, 3):
                engine.publish(stored(block))
            await Watcher(log).until(holds(1, 2, 3))
        async with FakeEngine(port, replay) as engine:
            engine.publish(stored(11))
            events = await Watcher(log).until(holds(11))
    assert kinds(events) == [Kind.STORED] * 3 + [Kind.CLEARED, Kind.STORED]
    assert running.stats.as_dict()["clears"] == 1


async def test_an_engine_that_restarted_and_passed_the_old_sequence_while_ingest_was_down_is_noticed(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]):
        await engine.subscribed()
        engine.publish(stored(1))
        engine.publish(stored(2))
        await Watcher(log).until(holds(1, 2))
    async with FakeEngine(port, replay) as engine:
        for block in (11, 12, 13, 14):
            engine.publish(stored(block))
        async with ingesting(log, [source_at(port, replay)]) as running:
            events = await Watcher(log).until(holds(11, 12, 13, 14))
    assert kinds(events) == [Kind.STORED] * 2 + [Kind.CLEARED] + [Kind.STORED] * 4
    assert running.stats.as_dict()["clears"] == 1


async def test_an_engine_that_restarted_and_says_nothing_yet_is_cleared_at_once(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]):
        await engine.subscribed()
        engine.publish(stored(1))
        await Watcher(log).until(holds(1))
    async with FakeEngine(port, replay), ingesting(log, [source_at(port, replay)]):
        events = await Watcher(log).until(lambda seen: Kind.CLEARED in kinds(seen))
    assert held(events) == {(7, 0): set()}


async def test_a_batch_that_comes_twice_is_stored_once_and_counted(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]) as running:
        await engine.subscribed()
        engine.publish(stored(1))
        engine.send_again()
        engine.publish(stored(2))
        events = await Watcher(log).until(holds(1, 2))
    assert kinds(events) == [Kind.STORED] * 2
    assert running.stats.as_dict()["clears"] == 0


async def test_an_ingest_that_stopped_goes_on_where_it_was_without_clearing(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine:
        for first in (1, 4, 7):
            async with ingesting(log, [source_at(port, replay)]) as running:
                for block in range(first, first + 3):
                    engine.publish(stored(block))
                await Watcher(log).until(holds(*range(1, first + 3)))
            assert running.stats.as_dict()["clears"] == 0
    events = await everything(log)
    assert [event.event_id for event in events] == list(range(9))


async def test_ten_thousand_buffered_batches_are_replayed_whole(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine:
        for block in range(1, 10_001):
            engine.publish(stored(block), send=False)
        async with ingesting(log, [source_at(port, replay)]) as running:
            await Watcher(log).until(lambda events: len(events) == 10_000)
    assert running.stats.as_dict()["clears"] == 0


async def test_another_block_size_than_the_topics_is_refused_by_name_and_parked(log: Log) -> None:
    port, replay = free_ports()
    await log.label_topic(TOPIC, "block_size", "16")
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]) as running:
        await engine.subscribed()
        engine.publish(stored(1, block_size=16), stored(2, block_size=4))
        engine.publish_payload(b"\xc1 not msgpack")
        engine.publish(stored(3, block_size=16))
        await Watcher(log).until(holds(1, 3))
    assert running.stats.rejected == 2
    parked = await log.read(await log.position(f"{TOPIC}.rejected", 0))
    reasons = [stored_record.record.headers["reason"].decode() for stored_record in parked]
    assert "block_size: this engine's blocks hold 4 tokens, the topic's 16" in reasons[0]
    assert "not MessagePack" in reasons[1]


async def test_a_block_size_that_another_ingest_gave_the_topic_meanwhile_counts(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]) as running:
        await engine.subscribed()
        await log.label_topic(TOPIC, "block_size", "16")
        engine.publish(stored(1, block_size=4))
        engine.publish(stored(2, block_size=16))
        await Watcher(log).until(holds(2))
    assert running.stats.rejected == 1


async def test_the_first_engine_that_stores_gives_the_topic_its_block_size(log: Log) -> None:
    port, replay = free_ports()
    async with FakeEngine(port, replay) as engine, ingesting(log, [source_at(port, replay)]):
        await engine.subscribed()
        engine.publish(stored(1, block_size=32))
        await Watcher(log).until(holds(1))
    assert (await log.topic(TOPIC)).labels["block_size"] == "32"


async def test_a_rank_listens_at_the_shifted_ports_and_only_its_own_blocks_are_cleared(log: Log) -> None:
    ports = free_ports()
    sources = [source_at(*ports), source_at(*ports, dp_rank=1)]
    async with FakeEngine(*ports) as first, ingesting(log, sources):
        async with FakeEngine(ports[0] + 1, ports[1] + 1, rank=1) as second:
            first.publish(stored(1))
            second.publish(stored(2))
            await Watcher(log).until(lambda events: held(events) == {(7, 0): {1}, (7, 1): {2}})
        async with FakeEngine(ports[0] + 1, ports[1] + 1, rank=1):
            await Watcher(log).until(lambda events: held(events) == {(7, 0): {1}, (7, 1): set()})
