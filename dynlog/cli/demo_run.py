"""The demo: a fleet, a router that is killed with SIGKILL, and its state back from the log, compared.

The fleet's events are the shipped sample of the Mooncake trace.  The comparison is against a fold of its own (plain
dictionaries over the events as they were generated), which shares no code with the index, the log or the snapshots.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlog.adapters.mooncake import Chains, Request, fleet_events, read_trace
from dynlog.cli.demo_router import LOG_VARIABLE, OBJECTS_VARIABLE
from dynlog.data import sample_trace
from dynlog.errors import ConfigurationError, DeadlineExceeded, DynlogError
from dynlog.kvevents import Kind, KvEvent, encode_events, unpack_hashes
from dynlog.log import Log
from dynlog.open import open_log, open_objects
from dynlog.producer import Producer
from dynlog.router.dump import load_events
from dynlog.router.index import KvIndex
from dynlog.topics import Durability, DurabilityLevel

WORKERS, CAPACITY, PARTITIONS = 8, 2000, 4
KILL_AT = 0.7
"""The router is killed after this share of the events."""
PATIENCE_S = 30.0

Block = tuple[int, int, int, int | None, int]
"""(worker_id, dp_rank, block_hash, parent_hash, tokens_hash)."""


@dataclass(slots=True)
class DemoReport:
    """What the demo measured; `same` is the point of it."""

    events: int = 0
    publish_seconds: float = 0.0
    killed_after_records: int = 0
    snapshots_before_kill: int = 0
    started_from: str = ""
    replayed_records: int = 0
    rebuild_seconds: float = 0.0
    back_seconds: float = 0.0
    blocks_held: int = 0
    same: bool = False
    matches: list[dict[str, int]] = field(default_factory=list)


class RouterProcess:
    """A router in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    @asynccontextmanager
    async def start(cls, log_url: str, objects_url: str, topic: str) -> AsyncIterator[RouterProcess]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dynlog.cli.demo_router", topic,
            env={**os.environ, LOG_VARIABLE: log_url, OBJECTS_VARIABLE: objects_url},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def says(self, word: str) -> dict[str, Any]:
        """The next line that has this fact."""
        return await self._heard(lambda facts: word in facts, f"it said {word!r}")

    async def until(self, records: int, snapshots: int) -> dict[str, Any]:
        """Waits until it has applied so many records and written so many snapshots."""
        return await self._heard(
            lambda facts: facts.get("records", -1) >= records and facts["snapshots"] >= snapshots,
            f"it had applied {records} records and written {snapshots} snapshots",
        )

    async def _heard(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while line := await self._process.stdout.readline():
                    facts: dict[str, Any] = json.loads(line)
                    if "failed" in facts:
                        raise DynlogError(f"the router process {self.pid}: {facts['failed']}")
                    if wanted(facts):
                        return facts
        except TimeoutError:
            raise DeadlineExceeded(
                f"{PATIENCE_S:g} s went by before {what} (the router process {self.pid}): are log and objects well?"
            ) from None
        raise DynlogError(f"the router process {self.pid} ended before {what}")

    async def dump(self, path: Path) -> None:
        """Has it catch up, dump and end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"dump {path}\n".encode())
        await self.says("dumped")

    async def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        await self._process.wait()


async def publish(log: Log, topic: str, events: list[KvEvent]) -> None:
    """The fleet: every event a record of its own, durable before the call returns."""
    async with Producer(log, topic) as producer:
        for event in events:
            await producer.submit(encode_events([event]))


def independent_fold(events: list[KvEvent]) -> set[Block]:
    """The blocks that the fleet holds, by dictionaries alone."""
    held: dict[tuple[int, int], dict[int, tuple[int | None, int]]] = {}
    for event in events:
        blocks = held.setdefault((event.worker_id, event.dp_rank), {})
        if event.kind == Kind.STORED:
            parent = event.parent_hash
            for block, tokens in zip(
                unpack_hashes(event.block_hashes), unpack_hashes(event.tokens_hashes), strict=True
            ):
                blocks[block] = (parent, tokens)
                parent = block
        elif event.kind == Kind.REMOVED:
            for block in unpack_hashes(event.block_hashes):
                blocks.pop(block, None)
    return {
        (worker, rank, block, parent, tokens)
        for (worker, rank), blocks in held.items()
        for block, (parent, tokens) in blocks.items()
    }


def blocks_of_dump(dump: list[dict[str, Any]]) -> Iterator[Block]:
    """The blocks that a dump stores."""
    for entry in dump:
        event = entry["event"]
        stored = event["data"]["stored"]
        parent = stored["parent_hash"]
        for block in stored["blocks"]:
            yield entry["worker_id"], event["dp_rank"], block["block_hash"], parent, block["tokens_hash"]
            parent = block["block_hash"]


async def run_demo(log_url: str | None, objects_url: str | None, tell: Callable[[str], None]) -> DemoReport:
    """Runs it, telling each step to ``tell``; without URLs in a temporary folder (SQLite and files)."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dynlog-demo-")))
        log_url = log_url or f"sqlite://{folder}/events.db"
        objects_url = objects_url or f"file://{folder}/objects"
        requests = list(read_trace(sample_trace()))
        events = list(fleet_events(requests, workers=WORKERS, capacity=CAPACITY, first_worker_id=1))
        report = DemoReport(events=len(events))
        log = await stack.enter_async_context(open_log(log_url))
        if not log.capabilities.many_processes or objects_url.startswith("memory:"):
            raise ConfigurationError("the demo kills a process, so its log and objects cannot lie in memory://")
        async with open_objects(objects_url):
            pass  # what is wrong with it is said now, and by one process
        topic = f"demo-{uuid.uuid4().hex[:8]}"
        await log.create_topic(topic, partitions=PARTITIONS)
        cut = int(len(events) * KILL_AT)

        async with RouterProcess.start(log_url, objects_url, topic) as router:
            await router.says("ready")
            tell(f"{WORKERS} workers publish {len(events)} KV events of {len(requests)} requests into {log.url}")
            begun = time.perf_counter()
            await publish(log, topic, events[:cut])
            report.publish_seconds = time.perf_counter() - begun
            tell(f"  {cut / report.publish_seconds:,.0f} events/s, {_kept(log.capabilities.durability)}")
            facts = await router.until(records=cut, snapshots=1)
            report.killed_after_records, report.snapshots_before_kill = facts["records"], facts["snapshots"]
            await router.kill()
        tell(
            f"router (pid {router.pid}) killed with SIGKILL: {facts['records']} events in, "
            f"{facts['snapshots']} snapshots"
        )

        await publish(log, topic, events[cut:])
        tell(f"  meanwhile the fleet publishes another {len(events) - cut} events")

        begun = time.perf_counter()
        async with RouterProcess.start(log_url, objects_url, topic) as router:
            ready = await router.says("ready")
            report.back_seconds = time.perf_counter() - begun
            report.started_from = ready["ready"]["started_from"]
            report.replayed_records = ready["ready"]["records"]
            report.rebuild_seconds = ready["ready"]["seconds"]
            report.blocks_held = ready["blocks"]
            tell(
                f"a new router (pid {router.pid}) is ready after {report.back_seconds * 1000:.0f} ms, Python's start "
                f"included: from {report.started_from.split()[0]} + {report.replayed_records} events in "
                f"{report.rebuild_seconds * 1000:.0f} ms ({report.replayed_records / report.rebuild_seconds:,.0f} "
                f"events/s), {report.blocks_held} blocks"
            )
            path = folder / f"dump-{os.getpid()}.json"
            await router.dump(path)
        dump = json.loads(path.read_text())
        expected = independent_fold(events)
        report.same = set(blocks_of_dump(dump)) == expected and len(expected) == report.blocks_held
        tell(f"its state {'equals' if report.same else 'DIFFERS FROM'} an independent fold of all {len(events)} events")
        report.matches = matches(load_events(dump), requests)
        for match in report.matches:
            tell(
                f"  prompt of {match['blocks']} blocks: worker {match['worker_id']} holds the first {match['matched']}"
            )
        return report


def _kept(durability: Durability) -> str:
    """What was acknowledged survives this much."""
    if durability.level is DurabilityLevel.DISK:
        return "all of them on disk"
    return f"all of them acknowledged (durability of this log: {durability})"


def matches(index: KvIndex, requests: list[Request]) -> list[dict[str, int]]:
    """The longest match of three sample prompts: long ones from different ages of the trace."""
    chains, found = Chains(), []
    for request in [r for r in requests if len(r.hash_ids) >= 16][-1:-800:-300]:
        hashes = [block.tokens_hash for block in chains.of(request)]
        (worker, _), best = max(index.find_matches(hashes).items(), key=lambda item: item[1], default=((-1, 0), 0))
        found.append({"blocks": len(hashes), "worker_id": worker, "matched": best})
    return found
