"""An apply that is killed at any instant and run again completes the target, doubles nothing, and changes no source."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import dynlog as library
from dynlog.log import Log
from dynlog.testing.nats import NatsServer
from tests.cli.process import Dynlog, dynlog
from tests.migrate.migrating import Migrating, body, bucket, put
from tests.migrate.test_object_faults import Watched, once
from tests.migrate.test_router import BUCKET, STREAM, Fleet, snapshot, stored
from tests.nats_source.source import Writer, everything, writing
from tests.rounds import dice_of, rounds

OBJECTS, OBJECT_BYTES, EVENTS, MESSAGES, KEYS = 40, 30_000, 1500, 1500, 150


FILLED = (STREAM, "orders", "dynlog.kv.settings")


async def furnished(writer: Writer) -> None:
    """Something of everything, small."""
    weights, model = await bucket(writer, "weights"), await bucket(writer, "llama")
    for number in range(OBJECTS):
        await put(weights, f"o{number}", body(OBJECT_BYTES))
    await put(model, "config.json", b"{}")
    await put(model, "tokenizer.json", body(100_000))
    await writer.stream(STREAM, subjects=[f"{STREAM}.*"])
    await bucket(writer, BUCKET)
    fleet = Fleet(writer)
    await fleet.upload(snapshot(*((w, None, list(range(1, 300))) for w in range(1, 40))), purged_below=1)
    await fleet.publish(*(stored(number % 40, None, [1000 + number]) for number in range(EVENTS)))
    await writer.stream("orders")
    await writer.fill("orders", MESSAGES, b"x" * 100)
    settings = await writer.js.create_key_value(bucket="settings", history=3)
    for number in range(KEYS * 2):
        await settings.put(f"k{number % KEYS}", b"%d" % number)


async def counted(log: Log) -> dict[str, int]:
    """Records of each topic that a migration fills."""
    return {name: sum(s.end - s.earliest for s in await log.partitions(name)) for name in FILLED}


async def test_an_apply_that_is_killed_again_and_again_ends_as_one_that_was_not(
    writer: Writer, nats_server: Any, tmp_path: Path
) -> None:
    dice = dice_of("killed applies")
    await furnished(writer)
    before = await everything(writer)

    def ends(name: str) -> tuple[str, ...]:
        target = ("--log", f"sqlite://{tmp_path}/{name}.db", "--objects", f"file://{tmp_path}/{name}")
        return ("--nats", nats_server.url, *target)

    loop = asyncio.get_running_loop()
    begun = loop.time()
    clean = await dynlog("migrate", "nats", "apply", *ends("clean"))
    assert clean.status == 0, clean.err
    whole = loop.time() - begun
    killed = 0
    for _ in range(rounds(10)):
        async with Dynlog.start("migrate", "nats", "apply", *ends("killed"), "--rate", "1500KiB") as command:
            ending = asyncio.ensure_future(command.ended())
            done, _pending = await asyncio.wait([ending], timeout=dice.uniform(0.3, 0.6) * (whole + 1.5))
            if not done:
                command.signal(signal.SIGKILL)
                killed += 1
            await ending
    assert killed >= 1
    final = await dynlog("migrate", "nats", "apply", *ends("killed"))
    assert final.status == 0, final.err
    verified = await dynlog("migrate", "nats", "verify", *ends("killed"), "--json")
    assert verified.status == 0, verified.err
    async with (
        library.open_log(f"sqlite://{tmp_path}/clean.db") as one,
        library.open_log(f"sqlite://{tmp_path}/killed.db") as other,
        library.open_objects(f"file://{tmp_path}/clean") as kept,
        library.open_objects(f"file://{tmp_path}/killed") as brought,
    ):
        assert await counted(one) == await counted(other)
        ours = {info.key: info.sha256 async for info in kept.list() if not info.key.startswith("snapshots/")}
        assert {i.key: i.sha256 async for i in brought.list() if not i.key.startswith("snapshots/")} == ours
    assert await everything(writer) == before


async def test_a_nats_server_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "nats", sync_always=True) as server, writing(server.url) as writer:
        source = await writer.js.create_object_store("weights")
        for number in range(5):
            await put(source, f"o{number}", body(400 * 4096))

        async def restart() -> None:
            await server.kill()
            await server.start()

        async with library.open_log("memory://") as log, library.open_objects("memory://") as objects:
            watched = Watched(objects, within=once(restart, "nats/weights/o2"))
            migrating = Migrating(server.url, log, watched)
            outcome = (await migrating.apply())["objects:weights"]
            assert (outcome.moved, outcome.refused) == (5, ())
            assert await migrating.differences() == {}
