"""A follower hears soon that its broker is gone, however long it was ready to wait for news."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynlog.errors import LogUnavailable
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.testing.kafka import KafkaServer
from dynlog.testing.programs import find_in_cache

pytestmark = pytest.mark.timeout(180)
WAIT_S, SOON_S = 100.0, 30.0


async def test_a_read_that_waits_says_that_the_broker_is_gone_long_before_its_wait_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlog.storage.kafka.reads.PATIENCE_S", 1.0)
    server = KafkaServer(tmp_path, find_in_cache("kafka", provide="`make servers` provides it"))
    async with server, open_log(f"kafka://{server.address}/away") as log:
        await log.create_topic("t")
        position = await log.position("t", 0)
        waiting = asyncio.create_task(log.read(position, wait=WAIT_S))
        await log.append("t", 0, [Record(parts=(b"heard",))])
        assert len(await waiting) == 1
        waiting = asyncio.create_task(log.read(waiting.result().next_position, wait=WAIT_S))
        await asyncio.wait([waiting], timeout=1.0)  # it is waiting at the broker now
        await server.kill()
        with pytest.raises(LogUnavailable):
            await asyncio.wait_for(waiting, SOON_S)
