"""One Kafka broker for the session; every test has a prefix of its own on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.testing.kafka import KafkaServer
from dynlog.testing.programs import find_in_cache


@pytest.fixture(scope="session")
def kafka_program() -> Path:
    return find_in_cache("kafka", provide="`make servers` provides it")


@pytest.fixture(scope="session")
def kafka_broker(kafka_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """The shared broker, that no test may harm."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka"), kafka_program)
    with asyncio.Runner() as runner:
        try:
            runner.run(server.start())
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture
def kafka_url(kafka_broker: KafkaServer) -> str:
    """A log that nobody has used, on the shared broker."""
    return f"kafka://{kafka_broker.address}/{uuid4().hex}"
