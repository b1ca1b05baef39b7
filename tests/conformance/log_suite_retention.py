"""Retention: what a topic keeps when nobody holds it, by age in log time and by size; holders are spared."""

from __future__ import annotations

import asyncio
import os

from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.timing import ManualClock
from dynlog.topics import Holder, HolderKind, Retention
from tests.conformance.backend import TOPIC, LogBackend, bodies, bounds, numbered, records

PIECE = 10_000


class RetentionSuite(LogBackend):
    async def test_retention_by_age_drops_what_is_older_in_log_time_and_nothing_else(
        self, timed: Log, clock: ManualClock, log_url: str
    ) -> None:
        if timed.capabilities.server_time:
            return  # the test cannot turn it
        await timed.create_topic(TOPIC, partitions=2, retention=Retention(max_age_s=3600))
        async with open_log(log_url, clock=clock) as other:  # with it ends what an append begins: retention by itself
            await other.append(TOPIC, 0, numbered(3))
            await other.append(TOPIC, 1, numbered(2))
            clock.advance(1800)
            await other.append(TOPIC, 0, records("younger"))
        clock.advance(1799)
        await timed.enforce_retention(TOPIC)
        assert (await bounds(timed), await bounds(timed, TOPIC, 1)) == ((0, 4), (0, 2))
        clock.advance(2)
        done = {truncation.partition: truncation.earliest for truncation in await timed.enforce_retention(TOPIC)}
        assert done == {0: 3, 1: 2}
        assert await bodies(timed) == ["younger"]
        clock.advance(3600)
        await timed.enforce_retention(TOPIC)
        assert await bounds(timed) == (4, 4)

    async def test_retention_by_size_keeps_the_newest(self, timed: Log) -> None:
        await timed.create_topic(TOPIC, retention=Retention(max_bytes=10 * PIECE))
        for _ in range(30):
            await timed.append(TOPIC, 0, [Record(parts=(os.urandom(PIECE),))])
        await timed.enforce_retention(TOPIC)
        (state,) = await timed.partitions(TOPIC)
        assert state.end == 30
        assert 8 <= state.end - state.earliest <= 11
        assert state.bytes <= 11.5 * PIECE

    async def test_a_topic_within_its_retention_loses_nothing(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC, retention=Retention(max_age_s=3600, max_bytes=100 * PIECE))
        for _ in range(20):
            await timed.append(TOPIC, 0, [Record(parts=(os.urandom(PIECE),))])
            clock.advance(60)
        await timed.enforce_retention(TOPIC)
        assert await bounds(timed) == (0, 20)

    async def test_a_topic_without_retention_keeps_everything(self, timed: Log, clock: ManualClock) -> None:
        await timed.create_topic(TOPIC)
        await timed.append(TOPIC, 0, numbered(3))
        clock.advance(10 * 365 * 86_400)
        await timed.append(TOPIC, 0, numbered(3))
        await timed.enforce_retention(TOPIC)
        assert await bounds(timed) == (0, 6)

    async def test_retention_spares_what_a_holder_needs_and_names_it(
        self, timed: Log, clock: ManualClock, log_url: str
    ) -> None:
        if timed.capabilities.server_time:
            return  # the test cannot turn it
        await timed.create_topic(TOPIC, retention=Retention(max_age_s=60, max_bytes=10_000))
        await timed.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 0}))
        async with open_log(log_url, clock=clock) as other:  # as above
            for number in range(6):
                await other.append(TOPIC, 0, [Record(parts=(f"r{number}".encode(), os.urandom(5_000)))])
        await timed.hold(TOPIC, Holder("h", HolderKind.NAMED, {0: 2}))
        clock.advance(3600)
        (done,) = await timed.enforce_retention(TOPIC)
        assert (done.earliest, done.blocked_by) == (2, ("h",))
        assert await bounds(timed) == (2, 6)
        await timed.release(TOPIC, "h")
        await timed.enforce_retention(TOPIC)
        assert await bounds(timed) == (6, 6)

    async def test_retention_drops_an_expired_holder_first_and_then_truncates(
        self, timed: Log, clock: ManualClock
    ) -> None:
        if timed.capabilities.server_time:
            return  # the test cannot turn it
        await timed.create_topic(TOPIC, retention=Retention(max_age_s=60))
        await timed.append(TOPIC, 0, numbered(3))
        await timed.hold(TOPIC, Holder("h", HolderKind.EPHEMERAL, {0: 1}))
        clock.advance(3600)
        await timed.enforce_retention(TOPIC)
        assert await bounds(timed) == (3, 3)
        assert len(await timed.events(TOPIC)) == 1

    async def test_retention_by_itself_leaves_no_event(self, timed: Log, clock: ManualClock) -> None:
        if timed.capabilities.server_time:
            return  # the test cannot turn it
        await timed.create_topic(TOPIC, retention=Retention(max_age_s=60))
        await timed.append(TOPIC, 0, numbered(3))
        clock.advance(3600)
        await timed.enforce_retention(TOPIC)
        assert await bounds(timed) == (3, 3)
        assert await timed.events(TOPIC) == []

    async def test_an_engine_enforces_retention_by_itself_while_it_appends(
        self, timed: Log, clock: ManualClock
    ) -> None:
        if timed.capabilities.server_time:
            return  # the test cannot turn it
        await timed.create_topic(TOPIC, retention=Retention(max_age_s=3600))
        await timed.append(TOPIC, 0, records("old"))
        clock.advance(2 * 3600)
        async with asyncio.timeout(20):
            while (await bounds(timed))[0] == 0:
                await timed.append(TOPIC, 0, records("new"))
                clock.advance(1)
                await asyncio.sleep(0.05)
