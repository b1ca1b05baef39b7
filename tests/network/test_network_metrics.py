"""What a scrape says of a manager: what is so at that moment, whichever thread asks, and nothing once it is closed."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dynlog.call_errors import HandlerFailed
from dynlog.entity import DynamoEntityID
from dynlog.network.calls import Request
from dynlog.network.events import Event
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.metrics import NetworkCollector
from dynlog.network.registry import LocalRegistry

SERVER, CALLER = DynamoEntityID.from_name("fleet/server"), DynamoEntityID.from_name("fleet/caller")
Samples = dict[tuple[str, tuple[str, ...]], float]


def parsed(text: bytes) -> Samples:
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scraped(manager: DynamoNetworkManager) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(NetworkCollector(manager))
    return registry


async def test_a_scrape_from_any_thread_tells_calls_events_and_writes() -> None:
    peers = LocalRegistry()
    released = asyncio.Event()

    async def echo(request: Request) -> bytes:
        if request.body == b"bad":
            raise ValueError("bad")
        if request.body == b"slow":
            await released.wait()
        return bytes(request.body)

    async def on_event(event: Event) -> None:
        return

    async with (
        DynamoNetworkManager(SERVER, registry=peers, listen=["tcp://127.0.0.1:0"]) as server,
        DynamoNetworkManager(CALLER, registry=peers) as caller,
    ):
        server.serve("echo", echo)
        for _ in range(2):  # two subscriptions of one topic are one series, or the scrape would be refused
            await server.subscribe(SERVER, "news", on_event)
        registry = scraped(server)
        for body in (b"a", b"b"):
            await caller.request(SERVER, "echo", body)
        with pytest.raises(HandlerFailed):
            await caller.request(SERVER, "echo", b"bad")
        slow = asyncio.create_task(caller.request(SERVER, "echo", b"slow"))
        for _ in range(1000):
            (service,) = server.stats()["services"]
            if service["running"]:
                break
            await asyncio.sleep(0.001)
        here = parsed(generate_latest(registry))
        elsewhere = parsed(await asyncio.to_thread(generate_latest, registry))
        released.set()
        assert await slow == b"slow"
        peer, place = (str(CALLER),), (str(SERVER), "echo")
        for found in (here, elsewhere):
            assert found["dynlog_network_peers", ()] == 1
            assert found["dynlog_network_service_served_total", place] == 3
            assert found["dynlog_network_service_failed_total", place] == 1
            assert found["dynlog_network_service_running", place] == 1
            assert found["dynlog_network_session_calls_here", peer] == 1
            assert found["dynlog_network_session_records_received_total", peer] >= 4
            assert found["dynlog_network_session_writes_total", peer] > 0
            assert found["dynlog_network_subscription_seen_total", (str(SERVER), "news")] == 0
    assert parsed(generate_latest(registry)) == {}, "a manager that is closed says nothing"


async def test_a_scrape_does_not_wait_for_ever_for_a_loop_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynlog.network.metrics.SCRAPE_S", 0.05)
    loop = asyncio.new_event_loop()  # never runs again

    async def opened() -> NetworkCollector:
        return NetworkCollector(DynamoNetworkManager(SERVER, registry=LocalRegistry()))

    collector = await asyncio.to_thread(loop.run_until_complete, opened())
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(lambda: list(collector.collect()))
    loop.close()
    assert list(collector.collect()) == []
