"""Care: a sound log verifies clean, gives nothing up by quarantine, and is copied while others go on appending."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dynlog.log import Log
from dynlog.open import open_log
from dynlog.topics import Damage
from tests.conformance.backend import TOPIC, LogBackend, after_turns, bodies, fill, marked, numbered, record


async def damages(log: Log, topic: str | None = None) -> list[Damage]:
    return [damage async for damage in log.verify(topic)]


class CareSuite(LogBackend):
    async def test_verify_of_a_sound_log_yields_nothing(self, log: Log) -> None:
        assert await damages(log) == []
        await fill(log, 10, partitions=3)
        await log.append(TOPIC, 2, marked("p", 1, 5, "a", "b"))
        await log.append(TOPIC, 0, numbered(5))
        await log.truncate(TOPIC, 0, 3)
        await fill(log, 2, "emptied")
        await log.truncate("emptied", 0, 2)
        await fill(log, 2, "deleted")
        await log.delete_topic("deleted")
        assert await damages(log) == []
        assert await damages(log, TOPIC) == []

    async def test_verify_while_others_append_and_truncate_yields_nothing(self, log: Log, log_url: str) -> None:
        await fill(log, 10)
        async with open_log(log_url) as other, asyncio.TaskGroup() as group:

            async def write() -> None:
                for number in range(40):
                    await other.append(TOPIC, 0, numbered(3))
                    await other.truncate(TOPIC, 0, number)

            writing = group.create_task(write())
            while not writing.done():
                assert await damages(log) == []
                await after_turns(1)

    async def test_quarantine_of_a_sound_log_sets_nothing_aside(self, log: Log) -> None:
        await fill(log, 5)
        incarnation = (await log.topic(TOPIC)).incarnation
        for accept_loss in (False, True):
            assert await log.quarantine(accept_loss=accept_loss) == []
        assert await bodies(log) == ["r0", "r1", "r2", "r3", "r4"]
        assert (await log.topic(TOPIC)).incarnation == incarnation
        assert await log.events(TOPIC) == []


class BackupSuite(LogBackend):
    """For engines that lie in files: a subclass says under which URL a backup opens."""

    def backup_url(self, path: Path) -> str:
        raise NotImplementedError

    async def test_a_backup_opens_as_a_log_of_its_own(self, log: Log, tmp_path: Path) -> None:
        await fill(log, 5)
        await log.append(TOPIC, 0, marked("p", 1, 0, "m"))
        await log.label_topic(TOPIC, "l", "v")
        await log.backup(tmp_path / "copy.db")
        await log.append(TOPIC, 0, [record("after the backup")])
        async with open_log(self.backup_url(tmp_path / "copy.db")) as copy:
            assert await bodies(copy) == ["r0", "r1", "r2", "r3", "r4", "m"]
            assert dict((await copy.topic(TOPIC)).labels) == {"l": "v"}
            assert (await copy.append(TOPIC, 0, marked("p", 1, 0, "m", "n"))).offsets == (5, 6)
            assert await damages(copy) == []
        assert (await bodies(log))[-1] == "after the backup"

    async def test_a_backup_is_consistent_while_others_go_on_appending(
        self, log: Log, log_url: str, tmp_path: Path
    ) -> None:
        await fill(log, 1, partitions=2)
        async with open_log(log_url) as other, asyncio.TaskGroup() as group:
            enough = asyncio.Event()

            async def write() -> None:
                number = 0
                while not enough.is_set():
                    await other.append(TOPIC, 1, [record(f"{number}"), record(f"{number}'")])
                    number += 1

            writing = group.create_task(write())
            for turn in range(3):
                acknowledged = (await log.position(TOPIC, 1, "end")).offset
                await log.backup(tmp_path / f"copy{turn}.db")
                async with open_log(self.backup_url(tmp_path / f"copy{turn}.db")) as copy:
                    found = await bodies(copy, TOPIC, 1)
                    assert len(found) >= acknowledged
                    assert found == [f"{n // 2}" + "'" * (n % 2) for n in range(len(found))]
                    assert len(found) % 2 == 0, "half of an append"
                    assert await damages(copy) == []
            enough.set()
            await writing
