"""Runs a vLLM ingest into a log and looks at what a reader of the log sees."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from dynlog.adapters.source_set import VllmSources
from dynlog.adapters.sources import ZmqSource
from dynlog.ingest import IngestStats, ingest
from dynlog.kvevents import Kind, KvEvent, decode_events, unpack_hashes
from dynlog.log import Log
from dynlog.reader import Reader
from dynlog.testing.process import free_port

TOPIC = "kv"
DEADLINE_S = 30.0
Held = dict[tuple[int, int], set[int]]


def free_ports(count: int = 2) -> list[int]:
    """Ports that nothing listens on, each with such a one behind it, for a rank's shift; no client is given them."""
    ports: list[int] = []
    while len(ports) < count:
        port = free_port()
        with socket.socket() as behind, suppress(OSError):
            behind.bind(("127.0.0.1", port + 1))
            if all(abs(port - other) > 1 for other in ports):
                ports.append(port)
    return ports


def source_at(port: int, replay_port: int | None = None, *, worker_id: int = 7, dp_rank: int = 0) -> ZmqSource:
    """The source that listens to a `FakeEngine`."""
    replay = None if replay_port is None else f"tcp://127.0.0.1:{replay_port}"
    return ZmqSource(address=f"tcp://127.0.0.1:{port}", replay=replay, worker_id=worker_id, dp_rank=dp_rank)


class Running:
    """An ingest that runs; its counters so far."""

    def __init__(self) -> None:
        self.stats = IngestStats()
        self.stop = asyncio.Event()

    def progressed(self, stats: IngestStats) -> None:
        self.stats = stats


@asynccontextmanager
async def ingesting(
    log: Log,
    sources: Sequence[ZmqSource] = (),
    *,
    sources_file: Path | None = None,
    replay_timeout_s: float = 5.0,
    heartbeat_s: float = 5.0,
    max_unacknowledged_bytes: int = 16 << 20,
) -> AsyncGenerator[Running, None]:
    """Ingests until the block ends, then stops as on SIGTERM."""
    running = Running()
    async with VllmSources(
        log, TOPIC, sources,
        sources_file=sources_file, reload_s=0.05, replay_timeout_s=replay_timeout_s, heartbeat_s=heartbeat_s,
    ) as engines:  # fmt: skip
        task = asyncio.create_task(
            ingest(
                log, TOPIC, engines.items(),
                stop=running.stop, progress=running.progressed, max_unacknowledged_bytes=max_unacknowledged_bytes,
            )
        )  # fmt: skip
        try:
            yield running
        finally:
            running.stop.set()
            running.stats = await task


class Watcher:
    """Follows the topic and remembers every event, as any reader would."""

    def __init__(self, log: Log, topic: str = TOPIC) -> None:
        self._log = log
        self._topic = topic
        self.events: list[KvEvent] = []
        self.marks: list[tuple[str, int]] = []

    async def until(self, enough: Callable[[list[KvEvent]], bool]) -> list[KvEvent]:
        """Reads on until what was read suffices; fails at the deadline."""
        reader = await Reader.open(self._log, self._topic)
        self.events, self.marks = [], []
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not enough(self.events):
                    batch = await reader.next(1.0)
                    for stored in batch or ():
                        self.events += decode_events(stored.record.key, stored.record.parts)
                        if stored.record.mark is not None:
                            self.marks.append((stored.record.mark.producer_id, stored.record.mark.sequence))
        except TimeoutError:
            raise AssertionError(f"never came; seen were {self.events}") from None
        finally:
            await reader.close()
        return self.events


async def everything(log: Log, topic: str = TOPIC) -> list[KvEvent]:
    """All events that are in the topic now."""
    events: list[KvEvent] = []
    for state in await log.partitions(topic):
        position = await log.position(topic, state.partition)
        while position.offset < state.end:
            batch = await log.read(position)
            for stored in batch:
                events += decode_events(stored.record.key, stored.record.parts)
            position = batch.next_position
    return events


def held(events: Sequence[KvEvent]) -> Held:
    """What each (worker, rank) holds after the events."""
    state: Held = {}
    for event in events:
        blocks = state.setdefault((event.worker_id, event.dp_rank), set())
        if event.kind is Kind.STORED:
            blocks.update(unpack_hashes(event.block_hashes))
        elif event.kind is Kind.REMOVED:
            blocks.difference_update(unpack_hashes(event.block_hashes))
        elif event.kind is Kind.CLEARED:
            blocks.clear()
        else:
            state = {key: value for key, value in state.items() if key[0] != event.worker_id}
    return state


def holds(*blocks: int, rank: tuple[int, int] = (7, 0)) -> Callable[[list[KvEvent]], bool]:
    """Whether that worker's rank holds exactly these blocks."""
    return lambda events: held(events).get(rank, set()) == set(blocks)


def kinds(events: Sequence[KvEvent]) -> list[Kind]:
    """The kinds, in order."""
    return [event.kind for event in events]
