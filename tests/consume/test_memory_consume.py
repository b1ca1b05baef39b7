"""Consumption on the memory engine, with marks checked by the engine, and left to the reader."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.consume.suite_admin import AdminSuite
from tests.consume.suite_copy import CopySuite
from tests.consume.suite_delivery import DeliverySuite
from tests.consume.suite_group import GroupSuite
from tests.consume.suite_misuse import MisuseSuite
from tests.consume.suite_zombie import ZombieSuite


class TestMemoryConsume(GroupSuite, ZombieSuite, DeliverySuite, MisuseSuite, AdminSuite, CopySuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"


class TestMarksLeftToTheReader(DeliverySuite, MisuseSuite, CopySuite):
    """An engine that cannot check marks: the same is delivered."""

    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}?checks_marks=false"
