"""What is Redis's own: connections, wake-ups, hash slots, durability, and damage to what it stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from dynlog.errors import ConfigurationError, LogCorrupt, ProducerFenced
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from dynlog.testing.redis import RedisServer
from dynlog.timing import ManualClock
from dynlog.topics import DurabilityLevel, Retention
from tests.conformance.backend import TOPIC, after_turns, bodies, eventually, fill, marked, numbered, records, texts
from tests.conformance.every_call import ALL_CALLS

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[Log]:
    async with open_log(redis_url) as opened:
        yield opened


@pytest.fixture
async def plain(redis_server: RedisServer) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_server.url) as client:
        yield client


async def keys_of(plain: Any, url: str) -> dict[str, bytes]:
    """Every key under the log's prefix, by its last word (the first partition's where there are several)."""
    prefix = url.rpartition("=")[2]
    found = [key async for key in plain.scan_iter(f"{{{prefix}*", count=1000)]
    return {key.rpartition(b":")[2].decode(): key for key in sorted(found, reverse=True)}


# Connections and wake-ups


async def test_a_wait_outlasts_the_clients_own_timeout_and_still_wakes(log: Log) -> None:
    await fill(log, 1)
    position = await log.position(TOPIC, 0, "end")
    started = time.monotonic()
    assert len(await log.read(position, wait=6.5)) == 0
    assert time.monotonic() - started > 6
    reading = asyncio.create_task(log.read(position, wait=30))
    await after_turns(5)
    await log.append(TOPIC, 0, records("after"))
    assert texts(list(await reading)) == ["after"]


async def test_any_number_of_waits_and_of_cancelled_ones_take_three_connections(log: Log, plain: Any) -> None:
    await log.create_topic(TOPIC, partitions=100)
    before = len(await plain.client_list())
    positions = [await log.position(TOPIC, partition, 0) for partition in range(100)]
    for _ in range(3):
        reads = [asyncio.create_task(log.read(position, wait=30)) for position in positions]
        await asyncio.sleep(0.05)
        for reading in reads:
            reading.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
    reads = [asyncio.create_task(log.read(position, wait=30)) for position in positions]
    for partition in range(100):
        await log.append(TOPIC, partition, records(f"to {partition}"))
    assert [texts(list(batch)) for batch in await asyncio.gather(*reads)] == [[f"to {p}"] for p in range(100)]
    assert len(await plain.client_list()) - before <= 2, "one for appends and one for waits came to the first"


async def test_a_wait_whose_connection_is_killed_wakes_for_the_next_append(log: Log, plain: Any) -> None:
    await fill(log, 1)
    reading = asyncio.create_task(log.read(await log.position(TOPIC, 0, "end"), wait=30))

    async def heard() -> bool:
        return len(await plain.client_list(_type="pubsub")) > 0

    await eventually(heard, "the read waits")
    for client in await plain.client_list(_type="pubsub"):
        await plain.client_kill_filter(_id=client["id"])
    await log.append(TOPIC, 0, records("next"))
    assert texts(list(await asyncio.wait_for(reading, 10))) == ["next"]


async def test_connections_killed_between_calls_are_not_noticed_by_the_caller(log: Log, plain: Any) -> None:
    await fill(log, 1)
    for number in range(1, 6):
        await plain.client_kill_filter(skipme=True, _type="normal")
        assert (await log.append(TOPIC, 0, marked("p", 1, number, f"r{number}"))).offsets == (number,)
        await plain.client_kill_filter(skipme=True, _type="normal")
        assert len(await bodies(log)) == number + 1


async def test_a_server_that_forgot_the_scripts_is_sent_them_again(log: Log, plain: Any) -> None:
    await fill(log, 2)
    await plain.script_flush()
    assert (await log.append(TOPIC, 0, records("r2"))).offsets == (2,)
    assert await bodies(log) == ["r0", "r1", "r2"]


async def test_logs_under_two_prefixes_or_in_two_databases_know_nothing_of_each_other(
    redis_server: RedisServer, redis_url: str
) -> None:
    elsewhere = redis_url.replace("/0?", "/1?")
    async with open_log(redis_url) as one, open_log(redis_url + "x") as two, open_log(elsewhere) as three:
        assert len({one.identity, two.identity, three.identity}) == 3
        for log, count in ((one, 1), (two, 2), (three, 3)):
            await fill(log, count)
        waiting = asyncio.create_task(three.read(await three.position(TOPIC, 0, "end"), wait=5))
        await after_turns(5)
        await one.append(TOPIC, 0, numbered(4))
        await three.append(TOPIC, 0, records("mine"))
        assert texts(list(await waiting)) == ["mine"]
        assert [len(await bodies(log)) for log in (one, two, three)] == [5, 2, 4]


# Hash slots


async def test_no_script_touches_two_hash_slots(log: Log, plain: Any) -> None:
    scripts: list[list[str]] = []
    async with plain.monitor() as monitor:

        async def watch() -> None:
            async for command in monitor.listen():
                words = command["command"].split(" ")
                if words[0] in ("EVAL", "EVALSHA") and command["client_type"] != "lua":
                    scripts.append(words)

        watching = asyncio.create_task(watch())
        await log.create_topic(TOPIC, partitions=3, retention=Retention(max_age_s=100))
        for partition in range(3):
            await log.append(TOPIC, partition, marked("p", 1, 0, "a", "b"))
        for name, call in ALL_CALLS.items():
            if name != "delete_topic":
                await asyncio.gather(call(log, TOPIC), return_exceptions=True)
        await log.truncate(TOPIC, 0, 2, force=True)
        await log.delete_topic(TOPIC)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    by_digest = [words for words in scripts if words[0] == "EVALSHA"]
    assert len(by_digest) > 20
    for words in by_digest:
        keys = words[3 : 3 + int(words[2])]
        assert len({key_slot(key.encode()) for key in keys}) <= 1, keys


async def test_the_partitions_of_a_topic_lie_in_slots_of_their_own(log: Log, plain: Any, redis_url: str) -> None:
    await log.create_topic(TOPIC, partitions=16)
    prefix = redis_url.rpartition("=")[2]
    metas = [key async for key in plain.scan_iter(f"{{{prefix}:{TOPIC}:*:meta", count=1000)]
    assert len(metas) == 16
    assert len({key_slot(key) for key in metas}) == 16


async def test_a_deleted_topic_leaves_no_key_behind(log: Log, plain: Any, redis_url: str) -> None:
    before = set((await keys_of(plain, redis_url)).values())
    await fill(log, 5, partitions=4)
    await log.append(TOPIC, 1, marked("p", 1, 0, "a"))
    await log.open_generation("g", TOPIC, {0: 1})
    await log.truncate(TOPIC, 0, 3, force=True)
    await log.delete_topic(TOPIC)
    left = set((await keys_of(plain, redis_url)).values()) - before
    assert all(key.endswith(b":producers") for key in left), left


# Marks


async def test_marks_are_exact_over_the_whole_range_of_sixty_three_bits(log: Log) -> None:
    most = (1 << 63) - 1
    await log.create_topic(TOPIC)
    for epoch, sequence in ((1, 1 << 53), (1 << 53, 0), ((1 << 53) + 1, (1 << 32) - 2), (most, most - 3)):
        mark = Mark("p", epoch, sequence)
        first = [Record(parts=(b"a",), mark=mark._replace(sequence=sequence + i)) for i in range(3)]
        stored = await log.append(TOPIC, 0, first)
        assert stored.duplicates == 0
        again = await log.append(TOPIC, 0, [*first, Record(mark=mark._replace(sequence=sequence + 3))])
        assert again.offsets[:3] == stored.offsets
        assert (again.duplicates, again.offsets[3]) == (3, stored.end_offset)
        if epoch > 1:
            with pytest.raises(ProducerFenced, match=str(epoch)):
                await log.append(TOPIC, 0, [Record(mark=Mark("p", epoch - 1, most))])


# Durability


@pytest.mark.parametrize(
    ("appendfsync", "level"),
    [
        ("always", DurabilityLevel.DISK),
        ("everysec", DurabilityLevel.PROCESS),
        ("no", DurabilityLevel.PROCESS),
        (None, DurabilityLevel.MEMORY),
    ],
)
async def test_durability_is_what_the_servers_settings_say(
    tmp_path: Path, appendfsync: str | None, level: DurabilityLevel
) -> None:
    async with RedisServer(tmp_path, appendfsync=appendfsync) as server, open_log(server.url) as log:
        assert log.capabilities.durability.level is level


async def test_durability_is_derived_anew_with_each_connection(tmp_path: Path) -> None:
    async with RedisServer(tmp_path) as server, open_log(server.url) as log, Redis.from_url(server.url) as plain:
        await plain.config_set("appendfsync", "everysec")
        await plain.client_kill_filter(skipme=True, _type="normal")
        await log.topics()
        assert log.capabilities.durability.level is DurabilityLevel.PROCESS


async def test_a_change_of_the_settings_is_noticed_while_appending(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        RedisServer(tmp_path) as server,
        open_log(server.url, clock=clock) as log,
        Redis.from_url(server.url) as plain,
    ):
        await fill(log, 1)
        await plain.config_set("appendfsync", "no")
        clock.advance(60)

        async def noticed() -> bool:
            await log.append(TOPIC, 0, records("more"))
            clock.advance(6)
            return log.capabilities.durability.level is DurabilityLevel.PROCESS

        await eventually(noticed, "the server promises less now")


# Damage


async def damages(log: Log) -> list[tuple[int, int]]:
    return [(damage.start, damage.end) async for damage in log.verify()]


async def spoil_last(plain: Any, stream: bytes) -> None:
    """Flips one bit in the newest entry; Redis itself would not notice."""
    ((newest, fields),) = await plain.xrevrange(stream, count=1)
    before = await plain.xrevrange(stream, count=2)
    await plain.xdel(stream, newest)
    await plain.execute_command("XSETID", stream, before[1][0])
    frame = bytearray(fields[b"f"])
    frame[-1] ^= 1
    await plain.xadd(stream, {"f": bytes(frame), "w": fields[b"w"]}, id=newest)


async def test_a_flipped_bit_is_found_named_and_can_be_set_aside(log: Log, plain: Any, redis_url: str) -> None:
    await fill(log, 3)
    await log.append(TOPIC, 0, records("spoilt", "spoilt"))
    await spoil_last(plain, (await keys_of(plain, redis_url))["stream"])
    await log.append(TOPIC, 0, records("r5"))
    position = await log.position(TOPIC, 0)
    assert texts(list(await log.read(position))) == ["r0", "r1", "r2"]
    with pytest.raises(LogCorrupt, match="checksum") as caught:
        await log.read(position._replace(offset=3))
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == (TOPIC, 0, 3)
    assert await damages(log) == [(3, 5)]

    (gone,) = await log.quarantine()
    assert (gone.start, gone.end) == (3, 5)
    assert await damages(log) == []
    assert await bodies(log) == ["r0", "r1", "r2", "r5"]
    assert texts(list(await log.read(position._replace(offset=4)))) == ["r5"]
    (event,) = await log.events(TOPIC)
    assert "from 3 to 5" in event.detail


async def test_an_entry_deleted_by_hand_is_missed(log: Log, plain: Any, redis_url: str) -> None:
    await log.create_topic(TOPIC)
    for number in range(4):
        await log.append(TOPIC, 0, records(f"{number}a", f"{number}b"))
    stream = (await keys_of(plain, redis_url))["stream"]
    entries = await plain.xrange(stream)
    await plain.xdel(stream, entries[1][0], entries[3][0])
    position = await log.position(TOPIC, 0)
    assert texts(list(await log.read(position))) == ["0a", "0b"]
    for offset in (2, 3, 6, 7):
        with pytest.raises(LogCorrupt, match="missing"):
            await log.read(position._replace(offset=offset))
    assert await damages(log) == [(2, 4), (6, 8)]
    await log.quarantine()
    assert await damages(log) == []
    assert await bodies(log) == ["0a", "0b", "2a", "2b"]
    assert (await log.append(TOPIC, 0, records("on"))).offsets == (8,)
    assert (await bodies(log))[-1] == "on"


async def test_an_entry_copied_to_another_place_does_not_verify(log: Log, plain: Any, redis_url: str) -> None:
    await fill(log, 1, partitions=2)
    await log.append(TOPIC, 1, records("mine"))
    prefix = redis_url.rpartition("=")[2]
    streams = sorted([key async for key in plain.scan_iter(f"{{{prefix}:{TOPIC}:*:stream", count=1000)])
    ((newest, fields),) = await plain.xrange(streams[0])
    await plain.delete(streams[1])
    await plain.xadd(streams[1], fields, id=newest)
    with pytest.raises(LogCorrupt, match="checksum"):
        await log.read(await log.position(TOPIC, 1))


async def test_a_backup_is_refused_with_the_command_that_copies_the_log(log: Log, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="BGSAVE") as refused:
        await log.backup(tmp_path / "copy.db")
    assert f"'dynlog log copy {log.url} sqlite://{tmp_path}/copy.db'" in str(refused.value)


@pytest.mark.parametrize("turns", range(1, 8))
async def test_a_close_that_is_cancelled_leaves_no_task_and_no_connection(
    redis_url: str, plain: Any, turns: int
) -> None:
    before, known = asyncio.all_tasks(), {client["id"] for client in await plain.client_list()}
    opening = open_log(redis_url)
    log = await opening.__aenter__()
    await fill(log, 1)
    reading = asyncio.create_task(log.read(await log.position(TOPIC, 0, "end"), wait=30))
    await after_turns(5)
    closing = asyncio.create_task(log.close())
    await after_turns(turns)
    accepted = closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled() is accepted
    await asyncio.gather(reading, return_exceptions=True)
    assert asyncio.all_tasks() == before

    async def gone() -> bool:
        return {client["id"] for client in await plain.client_list()} <= known

    await eventually(gone, "the connections to go")
