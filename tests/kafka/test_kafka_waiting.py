"""Waiting on Kafka: long polls that are under way do not delay whoever comes later."""

from __future__ import annotations

import asyncio
import statistics
import time

from dynlog.open import open_log
from dynlog.record import Record
from tests.conformance.log_suite_waiting import WAKE_S

PARTITIONS = 12


async def test_a_read_that_begins_to_wait_while_others_are_polled_wakes_as_soon(kafka_url: str) -> None:
    async with open_log(kafka_url) as log, open_log(kafka_url) as other:
        await log.create_topic("events", partitions=PARTITIONS)
        positions = [await log.position("events", partition) for partition in range(PARTITIONS)]
        idle = asyncio.create_task(log.read(positions[0], wait=60))
        await asyncio.sleep(0.1)  # its poll is on its way; without that the test would prove less, not fail
        late: list[float] = []
        for partition in range(1, PARTITIONS):
            reading = asyncio.create_task(log.read(positions[partition], wait=20))
            await asyncio.sleep(0.02)
            await other.append("events", partition, [Record(parts=(b"x",))])
            acknowledged = time.monotonic()
            assert len(await reading) == 1
            late.append(time.monotonic() - acknowledged)
        idle.cancel()
        assert statistics.median(late) < WAKE_S, late


async def test_a_read_wakes_for_each_partition_of_a_topic_that_is_followed_as_a_whole(kafka_url: str) -> None:
    async with open_log(kafka_url) as log, open_log(kafka_url) as other:
        await log.create_topic("events", partitions=PARTITIONS)
        positions = [await log.position("events", partition) for partition in range(PARTITIONS)]
        reads = [asyncio.create_task(log.read(position, wait=20)) for position in positions]
        for partition in range(PARTITIONS):
            await other.append("events", partition, [Record(parts=(b"%d" % partition,))])
        found = await asyncio.gather(*reads)
        assert [batch.bodies[0][0] for batch in found] == [b"%d" % partition for partition in range(PARTITIONS)]
