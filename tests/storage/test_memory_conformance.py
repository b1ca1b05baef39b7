"""The memory engine keeps the log contract."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from dynlog.open import open_log
from dynlog.topics import DurabilityLevel
from tests.conformance.backend import TOPIC, bodies, fill
from tests.conformance.log_suite import LogSuite, MarksSuite
from tests.conformance.log_suite_expect import ExpectSuite


class TestMemoryLog(LogSuite, MarksSuite):
    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}"


class TestMemoryLogWithoutMarks(ExpectSuite):
    """The marks are the reader's to check, as on Kafka."""

    def url(self, tmp_path: Path) -> str:
        return f"memory://{uuid4().hex}?checks_marks=false"


async def test_a_memory_log_declares_that_nothing_survives_the_process() -> None:
    async with open_log("memory://") as log:
        assert log.capabilities.durability.level is DurabilityLevel.MEMORY
        assert not log.capabilities.many_processes


async def test_memory_without_a_name_is_a_log_of_its_own_each_time() -> None:
    async with open_log("memory://") as one, open_log("memory://") as other:
        assert one.identity != other.identity
        await fill(one, 2)
        await fill(other, 1)
        assert (await bodies(one), await bodies(other)) == (["r0", "r1"], ["r0"])
        assert [topic.name for topic in await one.topics()] == [TOPIC]
