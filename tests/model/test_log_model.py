"""Whatever the order of steps, an engine, its producers and its readers do what fifty lines of lists and dicts do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from tests.model.machine import LogMachine

pytestmark = pytest.mark.timeout(600)  # finding takes seconds, making the finding small may take minutes
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


class MemoryMachine(LogMachine):
    def url(self) -> str:
        return f"memory://{uuid4().hex}"


class SqliteMachine(LogMachine):
    def url(self) -> str:
        self.folder = tempfile.TemporaryDirectory()
        return f"sqlite://{Path(self.folder.name) / 'events.db'}"

    def close_files(self) -> None:
        self.folder.cleanup()


TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True, suppress_health_check=HEALTH
)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, print_blob=True, suppress_health_check=HEALTH
)
