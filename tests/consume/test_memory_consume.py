"""Consumption on the memory engine."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.consume.suite_group import GroupSuite


class TestMemoryConsume(GroupSuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"
