"""A client of NATS is closed at every moment of what nats-py does by itself when a connection breaks."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.adapters.nats.client import NatsClient
from dynlog.adapters.nats.hanging_up import hung_up
from dynlog.testing.kinds import RunningServer
from tests.faults.proxy import Proxy
from tests.wires.wire_backend import PATIENCE_S


@pytest.mark.parametrize("turns", range(12))
async def test_a_client_that_has_just_lost_its_connection_is_closed_and_nobody_is_cancelled(
    nats_server: RunningServer, turns: int
) -> None:
    lost = asyncio.Event()

    async def failed(error: Exception) -> None:
        """nats-py tells of the end that it read, and would log it."""
        lost.set()

    async def heard(message: object) -> None:
        """A subscription has a task."""

    before = asyncio.all_tasks()
    async with Proxy(int(nats_server.url.rpartition(":")[2])) as proxy:
        client = NatsClient()
        await client.connect(f"nats://127.0.0.1:{proxy.port}", error_cb=failed, reconnect_time_wait=1)
        await client.subscribe("heard", cb=heard)
        proxy.break_connections()
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.publish("said", b"what cannot leave any more")
            await hung_up(client)
    assert client.is_closed
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left, timeout=PATIENCE_S)
    assert not [task for task in left if not task.done()]


class Deaf:
    """A client whose goodbye nobody takes, and nats-py's future that is cancelled under it."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        await self.closed


async def test_what_nats_py_cancels_by_itself_is_no_cancellation_of_whoever_closes_the_client() -> None:
    client = Deaf()
    client.closed.cancel()
    await hung_up(client)  # type: ignore[arg-type]


async def test_who_is_cancelled_while_a_client_hangs_up_is_cancelled() -> None:
    client = Deaf()
    closing = asyncio.create_task(hung_up(client))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert client.closed.cancelled()


async def test_a_goodbye_that_nobody_takes_is_given_up_at_its_deadline() -> None:
    client = Deaf()
    await asyncio.wait_for(hung_up(client, 0.05), PATIENCE_S)  # type: ignore[arg-type]
    assert client.closed.cancelled()
