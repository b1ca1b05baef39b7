"""The soak runs tests that are there, for as many rounds as were asked for; a failure says how to have it again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.soak import FAULTS, OUTAGE_S, soak_faults
from tests.house.repository import REPOSITORY

NOTES = """
import os
import pathlib

NAMES = ("DYNLOG_ROUNDS", "DYNLOG_KILL_ROUNDS", "DYNLOG_OUTAGE_S", "DYNLOG_SEED", "DYNLOG_SERVERS")

def test_it():
    with pathlib.Path(__file__).with_name("notes").open("a") as notes:
        print(*(os.environ[name] for name in NAMES), file=notes)
    print("seed", os.environ["DYNLOG_SEED"])
    assert os.environ["DYNLOG_SEED"] != "9", "a seed that finds something"
"""


@pytest.fixture
def campaign(tmp_path: Path) -> Sequence[str]:
    """What pytest runs: a test that notes what it was told, and fails with the seed 9."""
    (tmp_path / "test_it.py").write_text(NOTES, encoding="utf-8")
    return ["-p", "conftest", str(tmp_path / "test_it.py")]


def notes(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "notes").read_text(encoding="utf-8").splitlines()]


def test_rounds_are_made_two_a_run_with_long_outages_and_a_printed_seed_each(
    tmp_path: Path, campaign: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak_faults("mine", campaign, 5, seed=4) is None
    outage = str(OUTAGE_S)
    assert notes(tmp_path) == [
        ["2", "2", outage, "4", "native"],
        ["2", "2", outage, "5", "native"],
        ["1", "1", outage, "6", "native"],
    ]
    printed = capsys.readouterr().out
    assert re.findall(r"^mine: rounds (\d) to (\d) of 5, seed (\d)$", printed, re.MULTILINE) == [
        ("1", "2", "4"), ("3", "4", "5"), ("5", "5", "6"),
    ]  # fmt: skip
    assert len(re.findall(r"^  .*test_it seed \d$", printed, re.MULTILINE)) == 3, "and what the tests print themselves"


def test_a_failure_ends_the_campaign_keeps_the_output_and_says_how_to_have_it_again(
    tmp_path: Path, campaign: Sequence[str]
) -> None:
    failure = soak_faults("mine", campaign, 9, seed=8)
    assert failure is not None
    assert len(notes(tmp_path)) == 2, "the third run was not made"
    assert "after 2 rounds with seed 9" in failure
    assert re.search(r"DYNLOG_SEED=9 DYNLOG_ROUNDS=2 .*python -m pytest --allow-slow .*test_it\.py$", failure)
    output = re.search(r"printed is in (\S+/output);", failure)
    assert output is not None
    assert "a seed that finds something" in Path(output[1]).read_text(encoding="utf-8")
    shutil.rmtree(Path(output[1]).parent)


@pytest.mark.parametrize("name", FAULTS)
def test_each_campaign_names_tests_that_are_there(name: str) -> None:
    paths = [REPOSITORY / argument for argument in FAULTS[name] if argument.startswith("tests/")]
    assert paths
    assert [path for path in paths if not path.exists()] == []


def test_every_test_whose_rounds_can_be_chosen_is_in_a_campaign() -> None:
    campaigns = [REPOSITORY / argument for arguments in FAULTS.values() for argument in arguments]
    chosen = re.compile(r"DYNLOG_ROUNDS|^from tests\.rounds import .*\brounds\b", re.MULTILINE)
    left = [
        str(path.relative_to(REPOSITORY))
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        if "house" not in path.parts
        if chosen.search(path.read_text(encoding="utf-8"))
        if not any(path.is_relative_to(campaign) for campaign in campaigns)
    ]
    assert left == []


def test_a_campaign_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    asked = subprocess.run(
        [sys.executable, "scripts/soak.py", "--only", "crash,postgres"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert asked.returncode == 2
    assert "no campaign is named postgres; there are crash, redis, s3, kafka, consume, kv, ingest" in asked.stderr
