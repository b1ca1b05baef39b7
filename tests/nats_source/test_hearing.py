"""Whoever subscribes goes on only once the server has answered what was asked after the subscription."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import nats.errors
import pytest
import pytest_asyncio

from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.adapters.nats.hearing import server_answers, server_has_heard
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.running import mirror_subject
from dynlog.open import open_log
from dynlog.testing.kinds import RunningServer
from dynlog.wire import make_wire
from tests.faults.proxy import Direction, Network, Proxy


class Overheard:
    """A server, and what it is told by whoever comes to ``url``."""

    def __init__(self, proxy: Proxy) -> None:
        self.url = f"nats://127.0.0.1:{proxy.port}"
        self.proxy, self._said = proxy, bytearray()
        proxy.watch(self._heard)

    def _heard(self, way: Direction, piece: bytes) -> None:
        if way is Direction.TO_SERVER:
            self._said += piece

    def pinged_after_subscribing(self, subject: str) -> bool:
        """Whether a PING came behind the SUB."""
        _, subscribed, after = self._said.partition(b"\r\nSUB %s " % subject.encode())
        return bool(subscribed) and b"\r\nPING\r\n" in after


@pytest_asyncio.fixture
async def overheard(nats_server: RunningServer) -> AsyncIterator[Overheard]:
    async with Proxy(int(nats_server.url.rpartition(":")[2])) as proxy:
        yield Overheard(proxy)


@pytest.fixture
def subject() -> str:
    return f"dynlog.{uuid4().hex}"


async def test_a_source_listens_once_it_says_so(overheard: Overheard, subject: str) -> None:
    async def ignore(message: object) -> None:
        """Nothing comes."""

    async with open_nats(NatsAccess(overheard.url)) as server:
        await server.client.listen(subject, ignore, 1 << 20)
        assert overheard.pinged_after_subscribing(subject)


async def test_a_wire_listens_once_it_says_so(overheard: Overheard, subject: str) -> None:
    wire = make_wire("nats")
    await wire.listen(f"{overheard.url}/{subject}", lambda channel: pytest.fail("nobody dials"))
    assert overheard.pinged_after_subscribing(subject)
    await wire.close()


async def test_a_mirror_of_a_subject_listens_once_it_says_so(
    overheard: Overheard, subject: str, tmp_path: Path
) -> None:
    said: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def told(standing: Standing) -> None:
        if not said.done():
            said.set_result(overheard.pinged_after_subscribing(subject))

    async with open_log(f"sqlite://{tmp_path}/events.db") as log, open_nats(NatsAccess(overheard.url)) as server:
        mirror = asyncio.create_task(mirror_subject(server, log, subject, "t", told))
        async with asyncio.timeout(10):
            assert await said
        mirror.cancel()
        await asyncio.wait({mirror})


async def test_whoever_gives_up_waiting_for_an_answer_leaves_the_connection_as_it_is(overheard: Overheard) -> None:
    async with open_nats(NatsAccess(overheard.url)) as server:
        asking = asyncio.create_task(server_has_heard(server.client))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(nats.errors.FlushTimeoutError):
            await server_answers(server.client, 1e-6)
        await server_has_heard(server.client, 5)
        assert await server.api("INFO", timeout=5)


async def test_where_there_is_no_connection_nothing_passes_for_an_answer(overheard: Overheard) -> None:
    async with open_nats(NatsAccess(overheard.url)) as server:
        client = server.client
        overheard.proxy.set(Network.CUT)
        await client.gone.wait()
        with pytest.raises(nats.errors.Error):
            await server_has_heard(client)
    with pytest.raises(nats.errors.Error):
        await server_has_heard(client)
