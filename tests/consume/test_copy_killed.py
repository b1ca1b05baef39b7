"""`dynlog log copy` is killed with SIGKILL and run again: every record is there once and in order."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path

import pytest

from dynlog.errors import TopicNotFound
from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from tests.cli.process import PATIENCE_S, Dynlog, dynlog
from tests.conformance.backend import bodies
from tests.rounds import rounds

ROUNDS = rounds()
COUNT = 3_000 * max(ROUNDS, 3)
pytestmark = pytest.mark.timeout(60 + 20 * ROUNDS)


async def test_a_copy_that_was_killed_again_and_again_holds_every_record_once_and_in_order(
    tmp_path: Path, dice: random.Random
) -> None:
    source, target = f"sqlite://{tmp_path}/a.db", f"sqlite://{tmp_path}/b.db?max_batch_bytes=16384"
    async with open_log(source) as log:
        await log.create_topic("events")
        for first in range(0, COUNT, 500):
            records = [
                Record(parts=(f"{n}".encode(), bytes(500)), mark=Mark("p", 1, n) if n % 2 else None)
                for n in range(first, first + 500)
            ]
            await log.append("events", 0, records)
    async with open_log(target) as log:
        seen = 0
        for _ in range(ROUNDS):
            enough = seen + dice.randrange(1, 600)
            async with Dynlog.start("log", "copy", source, target) as copying:
                async with asyncio.timeout(PATIENCE_S):
                    while await _end_of(log) < enough:  # noqa: ASYNC110  (another process works)
                        await asyncio.sleep(0.005)
                copying.signal(signal.SIGKILL)
                await copying.ended()
            seen = await _end_of(log)
        assert 0 < seen < COUNT, "it was killed in the middle"
        outcome = json.loads((await dynlog("log", "copy", source, target, "--verify", "--json")).out)[0]
        assert outcome["already"] == seen
        assert (outcome["already"] + outcome["copied"], outcome["verified"]) == (COUNT, COUNT)
        assert await bodies(log, "events") == [str(n) for n in range(COUNT)]


async def _end_of(log: Log) -> int:
    try:
        return (await log.partitions("events"))[0].end
    except TopicNotFound:
        return 0
