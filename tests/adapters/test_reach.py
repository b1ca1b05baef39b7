"""Sources that nothing answers at: each is named once, again when it is reached, and counted while it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from dynlog.adapters import reach
from dynlog.adapters.dynamo_zmq import dynamo_items
from dynlog.adapters.reach import Reach, trouble_at
from dynlog.adapters.source_set import VllmSources
from dynlog.adapters.sources import ZmqSource, parse_source
from dynlog.ingest import ingest
from dynlog.ingest_items import Item, Noticed, NoticeKind
from dynlog.open import open_log
from tests.adapters.fake_engine import FakeEngine
from tests.adapters.harness import DEADLINE_S, TOPIC, free_ports

Items = Callable[[list[ZmqSource]], AsyncGenerator[Item, None]]


async def vllm_items(sources: list[ZmqSource]) -> AsyncGenerator[Item, None]:
    async with open_log("memory://") as log:
        await log.create_topic(TOPIC)
        async with VllmSources(log, TOPIC, sources) as engines, aclosing(engines.items()) as items:
            async for item in items:
                yield item


async def dynamo(sources: list[ZmqSource]) -> AsyncGenerator[Item, None]:
    nameless = [source.model_copy(update={"worker_id": None}) for source in sources]
    async with aclosing(dynamo_items(nameless)) as items:
        async for item in items:
            yield item


@asynccontextmanager
async def notices(items: Items, *sources: str) -> AsyncGenerator[AsyncGenerator[Noticed, None], None]:
    """What is said about their connections."""

    async def said() -> AsyncGenerator[Noticed, None]:
        async with aclosing(items([parse_source(source) for source in sources])) as every:
            async for item in every:
                if isinstance(item, Noticed) and item.kind in (NoticeKind.UNREACHED, NoticeKind.CONNECTED):
                    yield item

    async with aclosing(said()) as only, asyncio.timeout(DEADLINE_S):
        yield only


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "UNREACHED_S", 0.05)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("items", [vllm_items, dynamo])
async def test_a_port_that_nothing_listens_on_is_named_once_and_again_when_it_is_reached_and_when_it_is_lost(
    items: Items,
) -> None:
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    async with notices(items, f"{address}?worker_id=7") as said:
        first = await anext(said)
        assert (first.kind, first.source) == (NoticeKind.UNREACHED, address)
        assert "no connection for" in first.detail
        async with FakeEngine(port):
            # It takes longer than UNREACHED_S until ZMQ tries again, so a second warning would be seen here.
            second = await anext(said)
            assert (second.kind, second.source) == (NoticeKind.CONNECTED, address)
            assert "without a connection" in second.detail
        third = await anext(said)
        assert (third.kind, third.source) == (NoticeKind.UNREACHED, address)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("items", [vllm_items, dynamo])
async def test_a_host_name_that_cannot_be_resolved_is_named(items: Items) -> None:
    async with notices(items, "tcp://no-such-engine.invalid:5557?worker_id=7") as said:
        first = await anext(said)
    assert (first.kind, first.source) == (NoticeKind.UNREACHED, "tcp://no-such-engine.invalid:5557")
    assert "the host name 'no-such-engine.invalid' cannot be resolved" in first.detail


@pytest.mark.parametrize("items", [vllm_items, dynamo])
async def test_a_source_that_is_reached_at_once_is_never_called_unreached(
    items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(reach, "UNREACHED_S", DEADLINE_S)
    async with FakeEngine(port), notices(items, f"tcp://127.0.0.1:{port}?worker_id=7") as said:
        first = await anext(said)
    assert first.kind is NoticeKind.CONNECTED
    assert "without a connection" not in first.detail


async def test_a_source_is_warned_of_once_an_outage_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(reach, "monotonic", lambda: now)
    one = Reach(parse_source("tcp://127.0.0.1:1"))
    assert one.waiting().kind is NoticeKind.WAITING
    for _ in range(2):
        assert one.left == 10
        now += 9.9
        assert await one.overdue() is None
        now += 0.2
        assert one.left < 0
        late = await one.overdue()
        assert late is not None
        assert late.kind is NoticeKind.UNREACHED
        now += 100
        assert await one.overdue() is None
        assert one.left > 1000
        back = one.changed(connected=True)
        assert back is not None
        assert (back.kind, back.detail) == (NoticeKind.CONNECTED, "reached after 110 s without a connection")
        assert one.left > 1000
        lost = one.changed(connected=False)
        assert lost is not None
        assert lost.kind is NoticeKind.WAITING
        assert one.changed(connected=False) is None  # a handshake that failed is not another outage


async def test_a_socket_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert await trouble_at(f"ipc://{tmp_path}/engine") == f"there is no socket {tmp_path}/engine"


async def test_a_host_name_that_is_no_name_at_all_is_named() -> None:
    assert "cannot be resolved" in await trouble_at(f"tcp://{'x' * 300}:1")


async def test_sources_without_a_connection_are_counted_until_they_are_reached_or_no_longer_listed() -> None:
    def at(kind: NoticeKind, source: str) -> Noticed:
        return Noticed(kind, source, "")

    async def items() -> AsyncGenerator[Item, None]:
        for source in "abcd":
            yield at(NoticeKind.WAITING, source)
        yield at(NoticeKind.UNREACHED, "a")
        yield at(NoticeKind.CONNECTED, "b")
        yield at(NoticeKind.SOURCES, "c")
        yield at(NoticeKind.CONNECTED, "d")
        yield at(NoticeKind.WAITING, "d")

    async with open_log("memory://") as log:
        await log.create_topic(TOPIC)
        stats = await ingest(log, TOPIC, items())
    assert stats.unreached == {"a", "d"}
    assert stats.as_dict()["unreached"] == 2


@pytest.mark.usefixtures("soon")
async def test_a_source_that_is_no_longer_listed_is_no_longer_counted_as_unreached(tmp_path: Path) -> None:
    path, (port,) = tmp_path / "sources.yaml", free_ports(1)
    path.write_text(f"- tcp://127.0.0.1:{port}?worker_id=7\n")
    async with open_log("memory://") as log, asyncio.timeout(DEADLINE_S):
        await log.create_topic(TOPIC)
        async with VllmSources(log, TOPIC, sources_file=path, reload_s=0.05) as engines:
            stop = asyncio.Event()

            async def watched() -> AsyncGenerator[Item, None]:
                async with aclosing(engines.items()) as items:
                    async for item in items:
                        yield item
                        if isinstance(item, Noticed) and item.kind is NoticeKind.UNREACHED:
                            path.write_text("[]")
                        if isinstance(item, Noticed) and "went away" in item.detail:
                            stop.set()

            stats = await ingest(log, TOPIC, watched(), stop=stop)
    assert stats.notices[NoticeKind.UNREACHED] == 1
    assert stats.unreached == set()
