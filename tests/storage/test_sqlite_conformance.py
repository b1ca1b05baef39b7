"""The SQLite engine keeps the log contract, on its own file and among many processes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dynlog.open import open_log
from dynlog.record import Record
from dynlog.topics import DurabilityLevel
from tests.conformance.backend import TOPIC, bodies
from tests.conformance.log_suite import BackupSuite, LogSuite, MarksSuite, ProcessesSuite, StalledSuite

MIB = 1 << 20


class TestSqliteLog(LogSuite, MarksSuite, ProcessesSuite, BackupSuite, StalledSuite):
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path / 'events.db'}"

    def backup_url(self, path: Path) -> str:
        return f"sqlite://{path}"

    @contextmanager
    def stalled(self, url: str) -> Iterator[None]:
        """Somebody else holds SQLite's write lock."""
        with closing(sqlite3.connect(urlsplit(url).path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.execute("ROLLBACK")


async def test_a_sqlite_log_declares_that_it_survives_a_power_loss(tmp_path: Path) -> None:
    async with open_log(f"sqlite://{tmp_path / 'events.db'}") as log:
        assert log.capabilities.durability.level is DurabilityLevel.DISK
        assert log.capabilities.single_host


async def test_truncation_gives_the_space_back_to_the_system(tmp_path: Path) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.iterdir())

    async with open_log(f"sqlite://{tmp_path / 'events.db'}") as log:
        await log.create_topic(TOPIC)
        for _ in range(24):
            await log.append(TOPIC, 0, [Record(parts=(os.urandom(MIB - 4096),))])
        assert size() > 20 * MIB
        await log.truncate(TOPIC, 0, 24)
        assert size() < 8 * MIB
        await log.append(TOPIC, 0, [Record(parts=(b"next",))])
        assert await bodies(log) == ["next"]
    assert size() < MIB
