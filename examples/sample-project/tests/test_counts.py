"""What a user of this project relies on, on every engine that the run asks for."""

from __future__ import annotations

import asyncio
import sys

import pytest
from tokens.counts import TOPIC, TokenCounts, report

from dynlog import LiveProjection, Log, ObjectStore, Record


async def counted(log: Log, objects: ObjectStore | None = None) -> TokenCounts:
    async with LiveProjection.open(log, TOPIC, TokenCounts, "token-counts", objects=objects) as live:
        await live.caught_up()
        return live.state


async def test_the_tokens_of_a_worker_add_up(dynlog_log: Log) -> None:
    await report(dynlog_log, [("a", 3), ("b", 5), ("a", 4)])
    assert (await counted(dynlog_log)).by_worker == {"a": 7, "b": 5}


async def test_a_record_of_somebody_else_harms_nothing(dynlog_log: Log) -> None:
    await report(dynlog_log, [("a", 3)])
    await dynlog_log.append(TOPIC, 0, [Record(parts=(b"not a number",))])
    state = await counted(dynlog_log)
    assert (state.by_worker, state.refused) == ({"a": 3}, 1)


async def test_counts_come_back_from_a_snapshot_and_the_rest_of_the_log(
    dynlog_log: Log, dynlog_objects: ObjectStore
) -> None:
    await report(dynlog_log, [("a", 1)])
    async with LiveProjection.open(dynlog_log, TOPIC, TokenCounts, "token-counts", objects=dynlog_objects) as live:
        await live.caught_up()
        await live.snapshot()
    await report(dynlog_log, [("a", 1)])
    assert (await counted(dynlog_log, dynlog_objects)).by_worker == {"a": 2}


@pytest.mark.dynlog_engines("sqlite", "redis")
async def test_the_program_prints_what_another_process_reported(dynlog_log: Log, dynlog_log_url: str) -> None:
    await report(dynlog_log, [("a", 3), ("b", 5)])
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tokens", dynlog_log_url, cwd="src", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        out, _ = await program.communicate()
    assert out.decode().splitlines() == ["a 3", "b 5"]
