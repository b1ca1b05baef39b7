"""Key-value buckets on the memory engine, with marks checked by the engine, and left to the reader."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.kv.suite_care import CareSuite
from tests.kv.suite_watch import WatchSuite
from tests.kv.suite_writes import WriteSuite


class TestMemoryKv(WriteSuite, WatchSuite, CareSuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"


class TestMarksLeftToTheReader(WriteSuite, WatchSuite, CareSuite):
    """An engine that cannot check marks: the same state."""

    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}?checks_marks=false"
