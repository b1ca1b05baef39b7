"""Key-value buckets on the SQLite engine."""

from __future__ import annotations

from pathlib import Path

from tests.kv.suite_care import CareSuite
from tests.kv.suite_watch import WatchSuite
from tests.kv.suite_writes import WriteSuite


class TestSqliteKv(WriteSuite, WatchSuite, CareSuite):
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path / 'events.db'}"
