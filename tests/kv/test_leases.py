"""Leases, locks and elections on the engines that need no server."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.kv.suite_lease import LeaseSuite
from tests.kv.suite_lock import LockSuite


class TestMemoryLeases(LeaseSuite, LockSuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"


class TestMarksLeftToTheReader(LeaseSuite, LockSuite):
    """An engine that cannot check marks: the same outcome."""

    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}?checks_marks=false"


class TestSqliteLeases(LeaseSuite, LockSuite):
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path / 'events.db'}"
