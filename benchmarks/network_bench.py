"""The network beside raw asyncio, nats-py and grpc.aio: calls, streams of tokens, events, large messages.

Server and caller are two processes on loopback, bodies of 100 bytes.  Rounds of all alternate, each in another order,
and the median of each counts: the machines of a cloud slow down and speed up from one second to the next, and the best
of few rounds is whoever had the luckiest second.  The last row is per call, both ends in this process.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import nats as nats_py

from benchmarks.network_ours import CALLER, SERVER, TOKENS, caller, serve
from benchmarks.network_peers import CLIENTS, Call, other_process
from benchmarks.report import Row
from dynlog.network.calls import Call as BoundCall
from dynlog.network.calls import Request
from dynlog.network.hierarchy import Member
from dynlog.network.locating import this_host, this_process
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_server import LogServer
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.registry import LocalRegistry
from dynlog.network.services import Services
from dynlog.open import open_log
from dynlog.record import Buffer
from dynlog.testing.nats import NatsServer
from dynlog.timing import Deadline

BODY = b"x" * 100
MANY = 64
ROUNDS, EVENT_ROUNDS = 9, 5
SIZES = {"4 KiB": 4 << 10, "16 KiB": 16 << 10, "64 KiB": 64 << 10, "256 KiB": 256 << 10}


def run(quick: bool) -> list[Row]:
    """All rows."""
    return asyncio.run(_run(0.1 if quick else 1.0))


async def _run(share: float) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        async with NatsServer(Path(folder)) as nats:
            rows += await _calls(nats.url, share)
            rows += await _events(nats.url, share)
    rows += await _tokens(share)
    rows += await _sizes(share)
    rows += await _layers(share)
    rows += await _log(share)
    return rows


async def _rate(call: Call, count: int, at_once: int) -> float:
    """Calls per second."""
    left = count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(BODY)

    for _ in range(50):
        await call(BODY)
    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return count / (time.perf_counter() - begun)


async def _calls(nats_url: str, share: float) -> list[Row]:
    rates: dict[tuple[str, int], list[float]] = {}
    async with AsyncExitStack() as stack:
        calls: dict[str, Call] = {}
        for kind in ("raw", "nats", "grpc"):
            place = await stack.enter_async_context(other_process("benchmarks.network_peers", kind, nats_url))
            calls[kind] = await stack.enter_async_context(CLIENTS[kind](place))
        for wire, address in (("tcp", "tcp://127.0.0.1:0"), ("uds", f"uds://{tempfile.mkdtemp()}/s")):
            manager, _ = await stack.enter_async_context(caller(address))
            calls[wire] = _ours(manager.request)
        for _ in range(ROUNDS):
            for kind in random.sample(list(calls), len(calls)):
                for at_once, count in ((1, 1000), (MANY, 10_000)):
                    if kind == "raw" and at_once > 1:
                        continue
                    rate = await _rate(calls[kind], max(int(count * share), 200), at_once)
                    rates.setdefault((kind, at_once), []).append(rate)
    middle = {what: median(found) for what, found in rates.items()}
    rows = [("unary on TCP", "tcp"), ("unary on a Unix socket", "uds")]
    alone = [
        Row(f"{name}, one in flight", middle[wire, 1], "calls/s", middle["raw", 1], ">= 0.5x", "peer: raw TCP echo")
        for name, wire in rows
    ]
    beside = [
        Row(
            f"{name}, {at_once} in flight, beside {peer}",
            middle[wire, at_once],
            "calls/s",
            middle[peer, at_once],
            required,
        )
        for name, wire in rows
        for peer in ("nats", "grpc")
        for at_once, required in ((1, ""), (MANY, ">= 3x"))
    ]
    return alone + beside


def _ours(request: Callable[..., Awaitable[object]]) -> Call:
    async def call(body: bytes) -> bytes:
        return await request(SERVER, "echo", body)  # type: ignore[return-value]

    return call


async def _events(nats_url: str, share: float) -> list[Row]:
    """One publisher, eight subscriptions in another process, wires alone."""
    count = max(int(10_000 * share), 500)
    rates: dict[str, list[float]] = {"ours": [], "nats": []}
    for _ in range(EVENT_ROUNDS):
        async with caller("tcp://127.0.0.1:0") as (manager, _):
            await manager.publish(SERVER, "news", BODY)
            begun = time.perf_counter()
            sent = 0
            while sent < count:
                published = await manager.publish(SERVER, "news", BODY)
                if published.unreached:
                    await asyncio.sleep(0.0005)  # no room: the subscribers are behind
                    continue
                sent += 1
                if sent % 32 == 0:
                    await asyncio.sleep(0)
            await _all(lambda: manager.request(SERVER, "heard"), 8 * (sent + 1))
            rates["ours"].append(8 * sent / (time.perf_counter() - begun))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(other_process("benchmarks.network_peers", "nats-events", nats_url))
            client = await nats_py.connect(nats_url)
            stack.push_async_callback(client.close)
            begun = time.perf_counter()
            for _ in range(count):
                await client.publish("bench.news", BODY)
            await _all(partial(_told, client), 8 * count)
            rates["nats"].append(8 * count / (time.perf_counter() - begun))
    ours, theirs = median(rates["ours"]), median(rates["nats"])
    return [Row("events to 8 subscribers", ours, "deliveries/s", theirs, "", "peer: NATS core, nats-py")]


async def _told(client: Any) -> bytes:
    return bytes((await client.request("bench.heard", b"", timeout=30)).data)


async def _all(heard: Callable[[], Awaitable[bytes | memoryview]], count: int) -> None:
    """Returns once the other process heard so many."""
    while int(bytes(await heard())) < count:  # noqa: ASYNC110 - it is another process that counts
        await asyncio.sleep(0.001)


async def _tokens(share: float) -> list[Row]:
    """32 streams of single tokens."""
    async with caller("tcp://127.0.0.1:0") as (manager, _):

        async def one() -> None:
            async with manager.stream(SERVER, "tokens", deadline=60) as replies:
                assert len([reply async for reply in replies]) == TOKENS

        await one()
        begun = time.perf_counter()
        rounds = max(int(5 * share), 1)
        for _ in range(rounds):
            await asyncio.gather(*(one() for _ in range(32)))
        took = time.perf_counter() - begun
        (link,) = manager.links()
        stats = link.session.stats()
    return [
        Row(
            "32 streams of single tokens",
            stats.records_received / stats.batches_received,
            "messages/write",
            None,
            ">= 8",
        ),
        Row("32 streams of single tokens, all together", rounds * 32 * TOKENS / took, "tokens/s"),
    ]


async def _sizes(share: float) -> list[Row]:
    """Echoes of larger messages with 64 in flight."""
    found: dict[str, float] = {}
    async with caller("tcp://127.0.0.1:0") as (manager, _):
        for _ in range(2):
            for name, size in SIZES.items():
                body = bytes(size)
                count = max(int((128 << 20) * share / size), 80)

                async def worker(turns: list[None], body: bytes = body) -> None:
                    while turns:
                        turns.pop()
                        await manager.request(SERVER, "echo", body, deadline=60)

                turns: list[None] = [None] * count
                begun = time.perf_counter()
                await asyncio.gather(*(worker(turns) for _ in range(MANY)))
                found[name] = max(found.get(name, 0.0), 2 * count * size / (time.perf_counter() - begun) / 1e6)
    best = max(found.values())
    return [
        Row(
            f"{name} messages, 64 in flight", rate, "MB/s, both ways", best, ">= 0.5x" if name == "256 KiB" else "",
            "peer: the best size",
        )
        for name, rate in found.items()
    ]  # fmt: skip


async def _layers(share: float) -> list[Row]:
    """Microseconds per call with 64 in flight, both ends in this process."""
    count = max(int(20_000 * share), 1000)
    registry = LocalRegistry()
    await registry.join(Member(SERVER, (), ("inproc://layers",), this_host(), this_process()))
    async with serve("inproc://layers"), DynamoNetworkManager(CALLER, registry=registry) as manager:
        rates = [await _rate(_ours(manager.request), count, MANY) for _ in range(3)]
    return [Row("a call through manager, session and an in-process wire", 1e6 / median(rates), "us, both ends")]


async def _log(share: float) -> list[Row]:
    """Durable calls: request and reply are records on SQLite, synced before either end goes on."""
    services = Services()

    async def echo(request: Request) -> Buffer:
        return request.body

    services.add(SERVER, "echo", echo)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_log(f"sqlite://{folder}/calls.db") as log,
            LogServer.open(log, "calls", services, [SERVER]),
            LogCaller.open(log, "calls", CALLER) as path,
        ):

            async def call(body: bytes) -> bytes:
                return bytes(await path.request(BoundCall(SERVER, "echo", Deadline(30.0), CALLER), body))

            times = []
            for _ in range(max(int(500 * share), 50)):
                begun = time.perf_counter()
                await call(BODY)
                times.append(1000 * (time.perf_counter() - begun))
            rate = max([await _rate(call, max(int(10_000 * share), 500), MANY) for _ in range(3)])
    return [
        Row("a call on the log (SQLite), one in flight, p50", median(times), "ms"),
        Row("calls on the log (SQLite), 64 in flight", rate, "calls/s", None, ">= 5000", "both ends in one process"),
    ]
