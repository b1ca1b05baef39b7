"""The call suite over the log, on the engines that need no server."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.network.log_calls import LogBackend


class TestCallsOverMemory(LogBackend):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"


class TestCallsOverSqlite(LogBackend):
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/calls.db"


class TestCallsWhereReadersCheckMarks(LogBackend):
    """As on Kafka, whose appends take whatever comes."""

    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}?checks_marks=false"
