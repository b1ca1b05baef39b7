"""Events over a wire that loses, repeats, delays and exchanges: within a process, and on SQLite."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.network.event_pushes import PushSuite


class TestPushesOnMemory(PushSuite):
    seeds = range(20)

    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"


class TestPushesWhereReadersDropRepeats(PushSuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}?checks_marks=false"


class TestPushesOnSqlite(PushSuite):
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/events.db"
