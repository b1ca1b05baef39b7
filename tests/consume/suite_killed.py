"""Consumers in processes of their own that are killed with SIGKILL or paused, for engines that many processes share."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from dynlog.errors import DynlogError
from dynlog.log import Log
from tests.conformance.backend import PATIENCE_S, TOPIC
from tests.consume.backend import GROUP, ConsumeBackend, bodies_of, committed, keyed, until
from tests.consume.process import Note, read_notes, worker
from tests.rounds import outage_s, rounds

ROUNDS, OUTAGE_S = rounds(), outage_s()
LONG_ROUNDS = rounds(1)
"""Of tests in which a member dies once: each takes two processes and an expiry, on every engine."""
again = pytest.mark.parametrize("round_number", range(LONG_ROUNDS))


class KilledSuite(ConsumeBackend):
    @pytest.fixture
    def notes(self, tmp_path: Path) -> Path:
        return tmp_path / "notes"

    @again
    async def test_at_least_once_a_record_handled_before_the_kill_and_not_committed_is_handled_again(
        self, log: Log, log_url: str, notes: Path, dice: random.Random, round_number: int
    ) -> None:
        victim = f"r{dice.randrange(1, 9)}"
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, keyed(10, 3))
        async with worker(log_url, TOPIC, GROUP, str(notes), "--halt", "handled", victim) as doomed:
            await doomed.says("halted")
            await doomed.kill()
        async with worker(log_url, TOPIC, GROUP, str(notes)):
            await until(lambda: any(n.body == "r9" for n in read_notes(notes)), "the successor has handled all")
        seen = Counter(n.body for n in read_notes(notes))
        assert set(seen) == {f"r{n}" for n in range(10)}
        assert seen[victim] == 2

    @again
    @pytest.mark.parametrize(("place", "times"), [("before", 0), ("handled", 1)])
    async def test_at_most_once_a_record_in_hands_at_the_kill_is_never_handed_out_again(
        self, log: Log, log_url: str, notes: Path, dice: random.Random, round_number: int, place: str, times: int
    ) -> None:
        victim = f"r{dice.randrange(1, 9)}"
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, keyed(10, 3))
        once = ("--guarantee", "AT_MOST_ONCE")
        async with worker(log_url, TOPIC, GROUP, str(notes), *once, "--halt", place, victim) as doomed:
            await doomed.says("halted")
            await doomed.kill()
        async with worker(log_url, TOPIC, GROUP, str(notes), *once):
            await until(lambda: any(n.body == "r9" for n in read_notes(notes)), "the successor has handled the rest")
        seen = Counter(n.body for n in read_notes(notes))
        assert seen == Counter({f"r{n}": 1 for n in range(10)} | {victim: times}) - Counter()

    @again
    async def test_exactly_once_the_effects_of_a_record_are_in_the_log_once_although_it_is_handled_twice(
        self, log: Log, log_url: str, notes: Path, dice: random.Random, round_number: int
    ) -> None:
        victim = f"r{dice.randrange(1, 9)}"
        await log.create_topic(TOPIC)
        await log.create_topic("effects", partitions=2)
        await log.append(TOPIC, 0, keyed(10, 3))
        exactly = ("--guarantee", "EXACTLY_ONCE", "--effects", "effects")
        async with worker(log_url, TOPIC, GROUP, str(notes), *exactly, "--halt", "effect", victim) as doomed:
            await doomed.says("halted")
            assert f"{victim}/1" in await bodies_of(log, "effects")
            await doomed.kill()
        assert (await committed(log)).get(0, 0) <= int(victim[1:]), "the commit did not come before the kill"
        async with worker(log_url, TOPIC, GROUP, str(notes), *exactly):
            await _commits_up_to(log, 10)
        handled = Counter(n.body for n in read_notes(notes))
        assert handled[victim] == 2
        effects = await bodies_of(log, "effects")
        assert sorted(effects) == sorted(f"r{n}/{e}" for n in range(10) for e in range(2))

    @pytest.mark.timeout(120 + 60 * ROUNDS)
    async def test_members_killed_at_random_lose_no_record_and_repeat_no_effect(
        self, log: Log, log_url: str, tmp_path: Path, dice: random.Random
    ) -> None:
        await log.create_topic(TOPIC, partitions=3)
        await log.create_topic("effects", partitions=2)
        notes, expected = tmp_path / "notes", []
        exactly = (log_url, TOPIC, GROUP, str(notes), "--guarantee", "EXACTLY_ONCE", "--effects", "effects")
        async with worker(*exactly):  # one that stays
            for round in range(ROUNDS):
                async with worker(*exactly) as doomed:
                    for partition in range(3):
                        await log.append(TOPIC, partition, keyed(60, 9, f"{round}.{partition}."))
                        expected += [f"{round}.{partition}.{n}/{e}" for n in range(60) for e in range(2)]
                    enough = len(read_notes(notes)) + dice.randrange(1, 120)
                    await until(partial(_noted, notes, enough), "some were handled")
                    await doomed.kill()
            async with asyncio.timeout(PATIENCE_S * ROUNDS):
                for partition in range(3):
                    while (await committed(log)).get(partition, 0) < 60 * ROUNDS:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        assert sorted(await bodies_of(log, "effects")) == sorted(expected)

    @pytest.mark.timing
    async def test_a_killed_members_partitions_are_handled_by_another_within_three_seconds(
        self, log: Log, log_url: str, notes: Path, tmp_path: Path
    ) -> None:
        await log.create_topic(TOPIC, partitions=2)
        lost, kept = tmp_path / "lost", tmp_path / "kept"
        async with (
            worker(log_url, TOPIC, GROUP, str(kept)),
            worker(log_url, TOPIC, GROUP, str(lost)) as doomed,
        ):
            stop = asyncio.Event()
            feeding = asyncio.create_task(_feed(log, stop))
            try:
                await until(lambda: bool(read_notes(lost)) and bool(read_notes(kept)), "both are at work")
                theirs = {n.partition for n in read_notes(lost)[-1:]}
                killed = time.monotonic()
                await doomed.kill()
                await until(lambda: bool(_after(kept, killed, theirs)), "the other one takes over")
            finally:
                stop.set()
                await feeding
        waited = _after(kept, killed, theirs)[0].time - killed
        own = [n.time for n in read_notes(kept) if n.partition not in theirs and n.time > killed - 0.5]
        pause = max(b - a for a, b in itertools.pairwise(own))
        print(f"taken over after {waited:.2f} s; longest pause of the partition that was kept {pause:.2f} s")
        assert waited < 3.0
        assert pause < waited, "the partition that was kept went on meanwhile"

    @again
    async def test_a_member_that_was_paused_past_its_expiry_commits_nothing_and_comes_back(
        self, log: Log, log_url: str, tmp_path: Path, round_number: int
    ) -> None:
        await log.create_topic(TOPIC)
        await log.append(TOPIC, 0, keyed(5, 1))
        zombie, successor = tmp_path / "zombie", tmp_path / "successor"
        async with worker(log_url, TOPIC, GROUP, str(zombie)) as paused:
            await _commits_up_to(log, 5)
            paused.signal(signal.SIGSTOP)
            pause_ends = time.monotonic() + OUTAGE_S
            async with worker(log_url, TOPIC, GROUP, str(successor)) as other:
                await log.append(TOPIC, 0, keyed(5, 1, "s"))
                await _commits_up_to(log, 10)
                await asyncio.sleep(max(pause_ends - time.monotonic(), 0))  # what is tested is this very time
                paused.signal(signal.SIGCONT)
                await log.append(TOPIC, 0, keyed(5, 1, "t"))
                await _commits_up_to(log, 15)
                await other.kill()
            await log.append(TOPIC, 0, keyed(5, 1, "u"))
            await _commits_up_to(log, 20)
        assert [n.body for n in read_notes(successor)] == [f"{c}{n}" for c in "st" for n in range(5)]
        assert [n.body for n in read_notes(zombie)] == [f"{c}{n}" for c in "ru" for n in range(5)]


def _noted(path: Path, count: int) -> bool:
    return len(read_notes(path)) >= count


def _after(path: Path, when: float, partitions: set[int]) -> list[Note]:
    return [n for n in read_notes(path) if n.time > when and n.partition in partitions]


async def _feed(log: Log, stop: asyncio.Event) -> None:
    """Records for both partitions, for as long as it takes."""
    number = 0
    while not stop.is_set():
        for partition in range(2):
            await log.append(TOPIC, partition, keyed(1, 1, f"{number}."))
        number += 1
        await asyncio.sleep(0.03)


async def _commits_up_to(log: Log, offset: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if (await committed(log)).get(0, 0) >= offset:
                    return
            except DynlogError:
                pass
            await asyncio.sleep(0.02)
