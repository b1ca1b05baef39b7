"""(i) vLLM events over ZMQ: from the first send to the last one visible in a router's index, durable in between.

Three processes, as in a fleet: the engines (PUB and ROUTER sockets, payloads built beforehand), an ingest into SQLite,
and a router that follows the log.  Each event of the workload is sent with its tokens (blocks of 16) as vLLM 0.33 does.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import msgpack
import zmq

from benchmarks.report import Row
from benchmarks.workloads import WORKLOADS, Workload, block_ops
from dynlog.adapters.source_set import VllmSources
from dynlog.adapters.sources import ZmqSource
from dynlog.adapters.zmq_wait import receive
from dynlog.ingest import ingest
from dynlog.kvevents import Kind, KvEvent, unpack_hashes
from dynlog.open import open_log
from dynlog.router.state import RouterState

TOPIC = "kv"
BLOCK_SIZE = 16
SELECTION_SERVICE_EVENTS_PER_S = 100_000
"""Dynamo's SelectionService on workload A, fed over ZMQ and not durable (the issue's figure, not measured here)."""
LIMIT_S = 300.0


def vllm_event(event: KvEvent) -> dict[str, object]:
    """The event as vLLM 0.33 sends it; each block's tokens are made from its hash."""
    hashes = list(unpack_hashes(event.block_hashes))
    if event.kind is Kind.REMOVED:
        return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU"}
    tokens = [(block >> at) & 0xFFFF for block in unpack_hashes(event.tokens_hashes) for at in range(BLOCK_SIZE)]
    return {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": event.parent_hash, "token_ids": tokens,
        "block_size": BLOCK_SIZE, "lora_id": None, "medium": "GPU", "lora_name": None,
    }  # fmt: skip


def engines(
    pipe: Connection, ports: Sequence[tuple[int, int]], workload: Workload, most: int | None, per_batch: int
) -> None:
    """The engines' process: ``per_batch`` events to a batch, all batches as fast as the sockets take them."""
    events = workload.events()[:most]
    batches = [
        (worker, msgpack.packb([float(at), [vllm_event(event) for event in group], 0]))
        for at, (worker, group) in enumerate(_batches(events, per_batch))
    ]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publishers, routers = [], []
    for port, replay in ports:
        publishers.append(context.socket(zmq.XPUB))
        publishers[-1].setsockopt(zmq.SNDHWM, 0)
        publishers[-1].bind(f"tcp://127.0.0.1:{port}")
        routers.append(context.socket(zmq.ROUTER))
        routers[-1].bind(f"tcp://127.0.0.1:{replay}")
    for publisher in publishers:
        publisher.recv()  # the ingest's subscription
    sent: list[list[bytes]] = [[] for _ in ports]
    pipe.send((len(events), block_ops(events)))
    while not pipe.poll(0.01):
        _serve_replays(routers, sent)
    pipe.recv()
    began = time.time()
    for worker, payload in batches:
        publishers[worker].send_multipart([b"", len(sent[worker]).to_bytes(8, "big"), payload])
        sent[worker].append(payload)
        if len(sent[worker]) % 64 == 0:
            _serve_replays(routers, sent)
    pipe.send((began, time.time()))
    while not pipe.poll(0.01):
        _serve_replays(routers, sent)
    context.destroy(linger=0)


def _batches(events: Sequence[KvEvent], per_batch: int) -> Iterator[tuple[int, list[KvEvent]]]:
    waiting: dict[int, list[KvEvent]] = {}
    for event in events:
        group = waiting.setdefault(event.worker_id, [])
        group.append(event)
        if len(group) == per_batch:
            yield event.worker_id, waiting.pop(event.worker_id)
    yield from waiting.items()


def _serve_replays(routers: Sequence[zmq.Socket[bytes]], sent: Sequence[Sequence[bytes]]) -> None:
    for router, payloads in zip(routers, sent, strict=True):
        while (request := receive(router)) is not None:
            start = int.from_bytes(request[2], "big")
            for sequence in range(start, len(payloads)):
                router.send_multipart([request[0], b"", b"", sequence.to_bytes(8, "big"), payloads[sequence]])
            router.send_multipart([request[0], b"", b"", b"\xff" * 8, b""])


def ingesting(url: str, ports: Sequence[tuple[int, int]]) -> None:
    """The ingest's process; SIGTERM ends it."""

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        sources = [
            ZmqSource(address=f"tcp://127.0.0.1:{port}", replay=f"tcp://127.0.0.1:{replay}", worker_id=worker)
            for worker, (port, replay) in enumerate(ports)
        ]
        async with open_log(url) as log, VllmSources(log, TOPIC, sources) as listening:
            await ingest(log, TOPIC, listening.items(), stop=stop)

    asyncio.run(main())


async def measure(folder: Path, workload: Workload, most: int | None, per_batch: int) -> list[Row]:
    """Starts everything, lets go, and waits until the index has seen the last event."""
    spawn = multiprocessing.get_context("spawn")
    ports = _free_ports(workload.workers)
    url = f"sqlite://{folder}/events.db"
    async with open_log(url) as log:
        await log.create_topic(TOPIC)
        ours, theirs = spawn.Pipe()
        fleet = spawn.Process(target=engines, args=(theirs, ports, workload, most, per_batch))
        reader = spawn.Process(target=ingesting, args=(url, ports))
        fleet.start()
        reader.start()
        try:
            events, blocks = await asyncio.to_thread(ours.recv)
            async with RouterState.open(log, TOPIC) as router:
                await router.ready()
                ours.send("go")
                async with asyncio.timeout(LIMIT_S):
                    while router.index.counters.events < events:  # noqa: ASYNC110 - what is measured is this sight
                        await asyncio.sleep(0.002)
                ended = time.time()
            began, sent = await asyncio.to_thread(ours.recv)
            ours.send("done")
        finally:
            reader.terminate()
            for process in (reader, fleet):
                await asyncio.to_thread(process.join, 20)
                if process.is_alive():
                    process.kill()
    seconds = ended - began
    note = f"{events} events in {seconds:.2f} s; the engines had sent all after {sent - began:.2f} s"
    peer = SELECTION_SERVICE_EVENTS_PER_S if workload.name == "A" else None
    return [
        Row(f"vLLM to index, {workload.name}, {per_batch} a batch", events / seconds, "events/s", peer=peer, note=note),
        Row(f"vLLM to index, {workload.name}, {per_batch} a batch", blocks / seconds, "blocks/s"),
    ]


def run(quick: bool) -> list[Row]:
    """Rows: events and blocks per second; the peer is not durable and was measured elsewhere."""
    rows: list[Row] = []
    for per_batch in (1, 8):
        with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
            rows += asyncio.run(measure(Path(folder), WORKLOADS[0], 2000 if quick else None, per_batch))
    return rows


def _free_ports(pairs: int) -> list[tuple[int, int]]:
    sockets = [socket.socket() for _ in range(2 * pairs)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    numbers = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return list(zip(numbers[::2], numbers[1::2], strict=True))
