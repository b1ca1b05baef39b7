"""A NATS server that is killed under an apply is waited for, and what was moved by then is not moved again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nats.js.api import KeyValueConfig, StorageType

from dynlog.log import Log
from dynlog.migrations.nats.contract import Choices, Mover
from dynlog.migrations.nats.kv import KvMover
from dynlog.migrations.nats.streams import StreamMover
from dynlog.open import open_log
from dynlog.testing.nats import NatsServer
from tests.migrate_streams.source import Migration, Source, open_source


async def test_a_server_that_is_killed_and_comes_back_costs_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    async with (
        NatsServer(tmp_path / "nats", sync_always=True) as nats,
        open_source(nats.url) as source,
        open_log(f"sqlite://{tmp_path}/log.db") as log,
    ):
        await source.stream("S", "s", storage=StorageType.FILE)
        bucket = await source.js.create_key_value(KeyValueConfig(bucket="b", history=2))
        for number in range(60):
            await source.js.publish("s", b"%d " % number + b"x" * 100_000)
            await bucket.put(f"k{number}", b"%d " % number + b"x" * 50_000)
        await _killed_under(nats, source, log, StreamMover())
        await _killed_under(nats, source, log, KvMover())


async def _killed_under(nats: NatsServer, source: Source, log: Log, mover: Mover) -> None:
    moving = Migration(mover, source.server, log, Choices())
    (item,) = await moving.plan()
    begun = asyncio.Event()
    applying = asyncio.create_task(moving.apply(item, progress=lambda *_: begun.set(), bytes_per_s=4 << 20))
    await begun.wait()
    await nats.kill()
    await nats.start()

    outcome = await applying

    assert (outcome.moved, outcome.already, outcome.refused) == (60, 0, ())
    assert await moving.verify(item) == []
    assert (await moving.apply(item)).moved == 0
