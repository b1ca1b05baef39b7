"""The Kafka engine keeps the log contract, on a real broker and among many processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynlog.testing.kinds import RunningServer
from tests.conformance.log_suite import LogSuite, ProcessesSuite


class TestKafkaLog(LogSuite, ProcessesSuite):
    @pytest.fixture(autouse=True)
    def broker(self, kafka_server: RunningServer) -> None:
        self.address = kafka_server.address

    def url(self, tmp_path: Path) -> str:
        # The folder is the test's own, so its name makes the prefix that is.
        return f"kafka://{self.address}/{hash(tmp_path) & 0xFFFFFFFF:x}"
