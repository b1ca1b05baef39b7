"""A router served over real HTTP on loopback, and what its tests put into its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from dynlog import Log, open_log
from dynlog.kvevents import Kind, KvEvent, Tier, encode_events, pack_hashes
from dynlog.objects import ObjectStore
from dynlog.producer import Producer
from dynlog.router.http import HttpSettings, RebuildProgress, create_app
from dynlog.router.http_server import GuardedProtocol, listen, serving, url_of
from dynlog.router.state import RouterState

TOPIC = "kv"
BIG = 2**64 - 1
FAST, SLOW = 7, BIG
PROMPT = [2**63 + n for n in range(4)]
"""Tokens hashes; worker FAST holds the first three blocks, SLOW the first two."""


def stored(
    worker: int, tokens: Sequence[int], *, parent: int | None = None, dp_rank: int = 0, tier: Tier = Tier.DEVICE
) -> KvEvent:
    """A stored event whose block hashes are the tokens hashes plus one."""
    blocks = pack_hashes([(number + 1) % 2**64 for number in tokens])
    return KvEvent(worker, Kind.STORED, blocks, pack_hashes(tokens), parent, dp_rank=dp_rank, tier=tier)


async def append(log: Log, *events: KvEvent) -> None:
    """Each event as a record of its own."""
    async with Producer(log, TOPIC) as producer:
        for event in events:
            await producer.send(encode_events([event]))


@dataclass(slots=True)
class Served:
    """A running service."""

    log: Log
    router: RouterState
    url: str
    http: httpx.AsyncClient

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    async def match(self, **body: object) -> list[tuple[int, int, int]]:
        """(worker, rank, blocks) of each match."""
        answer = await self.http.post("/match", json=body)
        assert answer.status_code == 200, answer.text
        return [(m["worker_id"], m["dp_rank"], m["blocks"]) for m in answer.json()["matches"]]

    async def metric(self, name: str) -> float:
        """A sample of /metrics, its labels written as they are there."""
        text = (await self.http.get("/metrics")).text
        return float(next(line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name + " ")))

    async def raw(self, *pieces: bytes, timeout: float = 10.0) -> bytes:
        """Sends the pieces as they are and returns what came back until the server closed."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            async with asyncio.timeout(timeout):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def served_router(
    *events: KvEvent,
    log: Log | None = None,
    objects: ObjectStore | None = None,
    settings: HttpSettings | None = None,
    protocol: type[GuardedProtocol] = GuardedProtocol,
    ready: bool = True,
) -> AsyncIterator[Served]:
    """A router over the events, served; by default ready."""
    if log is None:
        async with (
            open_log("memory://") as fresh,
            served_router(
                *events, log=fresh, objects=objects, settings=settings, protocol=protocol, ready=ready
            ) as served,
        ):
            yield served
        return
    await log.create_topic(TOPIC, exist_ok=True)
    await append(log, *events)
    progress = RebuildProgress()
    async with RouterState.open(log, TOPIC, objects=objects, progress=progress) as router:
        if ready:
            await router.ready()
        listening = listen("127.0.0.1:0")
        url = url_of(listening)
        async with (
            serving(create_app(router, settings, progress), listening, protocol=protocol),
            httpx.AsyncClient(base_url=url, timeout=20.0) as http,
        ):
            yield Served(log, router, url, http)


def fleet() -> list[KvEvent]:
    """FAST holds three blocks of PROMPT, SLOW two."""
    return [stored(FAST, PROMPT[:3]), stored(SLOW, PROMPT[:2])]
