"""The oracle of the crash test sees each kind of breach; otherwise its silence would mean nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.log import Log
from dynlog.open import open_log
from dynlog.record import Mark, Record
from tests.crash.oracle import Acknowledged, LogChecker, Violation
from tests.crash.writer import TOPIC, body_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'events.db'}"


@pytest.fixture
async def log(url: str) -> AsyncIterator[Log]:
    async with open_log(url) as log:
        await log.create_topic(TOPIC)
        yield log


@pytest.fixture
def acknowledged() -> Acknowledged:
    return Acknowledged()


@pytest.fixture
def checker(url: str, acknowledged: Acknowledged) -> LogChecker:
    return LogChecker(url, 1, acknowledged)


def sent(number: int, epoch: int = 1, body: bytes | None = None) -> Record:
    return Record(parts=(body_of("w", 0, number) if body is None else body,), mark=Mark("w", epoch, number))


async def test_what_was_acknowledged_and_is_there_is_no_breach(
    log: Log, acknowledged: Acknowledged, checker: LogChecker
) -> None:
    for number in range(4):
        (offset,) = (await log.append(TOPIC, 0, [sent(number)])).offsets
        acknowledged.report("w", b"0 %d %d" % (number, offset))
        assert await checker.check_news() == number + 1
    await log.append(TOPIC, 0, [sent(4)])  # stored, its acknowledgement lost
    assert await checker.check_whole() == 5


async def test_an_acknowledged_record_that_is_not_there_is_a_loss(
    log: Log, acknowledged: Acknowledged, checker: LogChecker
) -> None:
    await log.append(TOPIC, 0, [sent(0)])
    acknowledged.report("w", b"0 0 0")
    acknowledged.report("w", b"0 1 1")
    with pytest.raises(Violation, match="record 1 of w was acknowledged in 0 and is lost"):
        await checker.check_news()


async def test_a_record_that_lies_elsewhere_than_was_said_is_a_breach(
    log: Log, acknowledged: Acknowledged, checker: LogChecker
) -> None:
    await log.append(TOPIC, 0, [sent(0)])
    acknowledged.report("w", b"0 0 7")
    with pytest.raises(Violation, match="said to be at 7, it is at 0"):
        await checker.check_news()


async def test_a_doubled_record_is_a_breach(log: Log, checker: LogChecker) -> None:
    await log.append(TOPIC, 0, [sent(0), sent(0, epoch=2)])
    with pytest.raises(Violation, match="record 0 of w at 0/1 follows 0"):
        await checker.check_news()


async def test_a_record_missing_between_two_is_a_breach(log: Log, checker: LogChecker) -> None:
    await log.append(TOPIC, 0, [sent(0), sent(2)])
    with pytest.raises(Violation, match="record 2 of w at 0/1 follows 0"):
        await checker.check_news()


async def test_a_record_with_another_body_is_a_breach(log: Log, checker: LogChecker) -> None:
    await log.append(TOPIC, 0, [sent(0, body=b"other")])
    with pytest.raises(Violation, match="not what was sent"):
        await checker.check_news()


async def test_a_log_that_became_shorter_is_a_breach(log: Log, checker: LogChecker) -> None:
    await log.append(TOPIC, 0, [sent(0), sent(1)])
    await checker.check_news()
    await log.delete_topic(TOPIC)
    await log.create_topic(TOPIC)
    with pytest.raises(Violation, match="ended at 2 and now ends at 0"):
        await checker.check_news()
