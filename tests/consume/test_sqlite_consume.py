"""Consumption on the SQLite engine, among many processes."""

from __future__ import annotations

from pathlib import Path

from tests.consume.suite_admin import AdminSuite
from tests.consume.suite_copy import CopySuite
from tests.consume.suite_delivery import DeliverySuite
from tests.consume.suite_group import GroupSuite
from tests.consume.suite_killed import KilledSuite
from tests.consume.suite_misuse import MisuseSuite
from tests.consume.suite_zombie import ZombieSuite


class TestSqliteConsume(GroupSuite, ZombieSuite, DeliverySuite, MisuseSuite, AdminSuite, CopySuite, KilledSuite):
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path / 'events.db'}"
