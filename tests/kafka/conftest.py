"""The session's Kafka broker, that no test may harm; every test has a prefix of its own on it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.testing.kinds import RunningServer
from dynlog.testing.programs import find_in_cache


@pytest.fixture(scope="session")
def kafka_program() -> Path:
    """For tests that want brokers of their own."""
    return find_in_cache("kafka", provide="`make servers` provides it")


@pytest.fixture
def kafka_url(kafka_server: RunningServer) -> str:
    """A log that nobody has used, on the shared broker."""
    return f"kafka://{kafka_server.address}/{uuid4().hex}"
