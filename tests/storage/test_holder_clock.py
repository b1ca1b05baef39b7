"""Holders and a clock that is put back; the same on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.timing import ManualClock
from dynlog.topics import EPHEMERAL_EXPIRY_S, Holder, HolderKind

YEAR_S = 365 * 24 * 3600.0


async def cut_to(log: Log) -> int:
    return (await log.truncate("t", 0, 1)).earliest


@pytest.mark.parametrize("url", ["memory://", "sqlite://{}/events.db"])
async def test_a_dead_holder_that_was_heard_of_while_the_clock_was_ahead_expires_all_the_same(
    url: str, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with open_log(url.format(tmp_path), clock=clock) as log:
        await log.create_topic("t")
        clock.advance(YEAR_S)
        await log.append("t", 0, [Record((b"a",))])
        await log.hold("t", Holder("dead", HolderKind.EPHEMERAL, {0: 0}))
        clock.advance(-YEAR_S)
        assert await cut_to(log) == 0
        clock.advance(EPHEMERAL_EXPIRY_S - 1)
        assert await cut_to(log) == 0
        clock.advance(2)
        assert await cut_to(log) == 1
        assert [event.kind for event in await log.events("t")] == ["holder-expelled"]
