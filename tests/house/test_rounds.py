"""Every test with faults makes as many rounds, of as long outages, from the seed, that the environment says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.house.repository import REPOSITORY
from tests.rounds import dice_of, outage_s, rounds

FAULTY = [
    "tests.faults.test_redis_faults",
    "tests.s3.test_s3_faults",
    "tests.kafka.test_kafka_faults",
    "tests.consume.suite_killed",
    "tests.consume.test_copy_killed",
]


@pytest.mark.parametrize("module", FAULTY)
def test_a_suite_with_faults_makes_the_rounds_that_the_environment_says(module: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", f"import {module} as suite; print(suite.ROUNDS, getattr(suite, 'OUTAGE_S', 1.5))"],
        cwd=REPOSITORY, env={**os.environ, "DYNLOG_ROUNDS": "7", "DYNLOG_OUTAGE_S": "1.5"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert asked.stdout.split() == ["7", "1.5"]


def test_unless_it_says_three_rounds_are_made_of_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DYNLOG_ROUNDS", "DYNLOG_OUTAGE_S", "DYNLOG_SEED"):
        monkeypatch.delenv(name, raising=False)
    assert (rounds(), rounds(1), outage_s()) == (3, 1, 3.0)
    monkeypatch.setenv("DYNLOG_ROUNDS", "5")
    assert rounds(1) == 5


def test_a_seed_is_printed_and_makes_the_same_choices_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYNLOG_SEED", "9")
    drawn = [dice_of(name).random() for name in ("test_it", "test_it", "test_another")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert capsys.readouterr().out.splitlines()[0] == "test_it: seed 9"
    monkeypatch.delenv("DYNLOG_SEED")
    assert dice_of("test_it").random() != dice_of("test_it").random()
