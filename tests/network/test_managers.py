"""Registry, manager and events: without a log, and on memory and SQLite."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import uuid4

from tests.network.event_suite import EventSuite, WithLogSuite, WithoutLogSuite
from tests.network.registry_backend import World, on_log, without_log
from tests.network.registry_suite import ManagerSuite, RegistrySuite


class TestWithoutLog(RegistrySuite, ManagerSuite, EventSuite, WithoutLogSuite):
    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[World]:
        return without_log()


class TestOnMemory(RegistrySuite, ManagerSuite, EventSuite, WithLogSuite):
    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[World]:
        return on_log(f"memory://{uuid4().hex}")


class TestOnSqlite(RegistrySuite, ManagerSuite, EventSuite, WithLogSuite):
    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[World]:
        return on_log(f"sqlite://{tmp_path}/events.db")
