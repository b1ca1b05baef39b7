"""Every suite has a wall budget that a run prints; where `make test` or CI runs, exceeding it fails the run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.repository import REPOSITORY, tracked_files
from tests.house.suites import BUDGETS, read_budgets, suite_of

WHOLE_S = 57 * 60
OTHER_STAGES_S = 800
"""For what `make test` does besides its stage `tests`: install, servers, types, containers, uvloop, compiled."""


def test_every_suite_has_a_budget_and_no_other_has() -> None:
    suites = {suite_of(path.as_posix()) for path in tracked_files() if re.fullmatch(r"test_.*\.py", path.name)}
    assert set(read_budgets(REPOSITORY).suites) == suites - {None}


def test_the_run_and_all_other_stages_together_fit_into_what_make_test_may_take() -> None:
    assert read_budgets(REPOSITORY).run + OTHER_STAGES_S <= WHOLE_S


SUITE = "import time\nimport pytest\n\n@pytest.mark.parametrize('n', range(3))\ndef test_it(n): time.sleep(0.02)\n"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RED = "\x1b[31m"


class Project:
    """Suites ``quick`` (within its budget), ``slow`` (over it) and ``new`` (without one)."""

    def __init__(self, folder: Path, whole: float = 60) -> None:
        self.folder = folder
        for suite in ("quick", "slow", "new"):
            (folder / "tests" / suite).mkdir(parents=True)
            (folder / "tests" / suite / f"test_{suite}.py").write_text(SUITE, encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / BUDGETS).parent.mkdir(parents=True)
        (folder / BUDGETS).write_text(
            f"[run]\nseconds = {whole}\n[seconds]\nquick = 60\nslow = 0.05\n", encoding="utf-8"
        )

    def run(self, *arguments: str, **environment: str) -> tuple[bool, list[str]]:
        """Whether the run passed, and what it printed, in colours."""
        plain = {name: value for name, value in os.environ.items() if name not in ("CI", "DYNLOG_NO_SKIPS")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--color=yes", "-p", "conftest", *arguments],
            cwd=self.folder, env={**plain, **environment, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "9 passed" in done.stdout or "3 passed" in done.stdout, done.stdout + done.stderr
        return done.returncode == 0, done.stdout.splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def rows(lines: list[str]) -> dict[str, list[str]]:
    """The table's rows by suite: tests, seconds, budget and the rest."""
    plain = [COLOURS.sub("", line).split() for line in lines]
    return {row[0]: row[1:] for row in plain if len(row) >= 4 and row[1].isdigit()}


def test_a_run_prints_tests_seconds_and_budget_of_each_suite_and_an_excess_in_red(project: Project) -> None:
    _, lines = project.run()
    table = rows(lines)
    assert [(suite, row[0], *row[2:]) for suite, row in table.items()] == [
        ("new", "3", "-", "no", "budget", "in", BUDGETS.as_posix()),
        ("quick", "3", "60"),
        ("slow", "3", "0", "OVER", "BUDGET"),
        ("all", "9", "60"),
    ]
    assert float(table["slow"][1]) >= 0.1, "three tests of 20 ms, rounded"
    red = [COLOURS.sub("", line).split()[0] for line in lines if line.startswith(RED) and COLOURS.sub("", line).split()]
    assert {"new", "slow", "all"} <= set(red)
    assert "quick" not in red


@pytest.mark.parametrize(
    ("arguments", "environment", "passes"),
    [
        ((), {"DYNLOG_NO_SKIPS": "1"}, False),
        (("tests/slow",), {"CI": "true"}, False),
        (("tests/slow", "-n2"), {"CI": "true"}, False),
        (("tests/new",), {"CI": "true"}, False),
        (("tests/quick",), {"CI": "true"}, True),
        (("--allow-slow",), {"CI": "true"}, True),
        ((), {}, True),
    ],
)
def test_a_run_over_its_suites_budgets_or_with_a_suite_without_one_fails_where_make_test_or_ci_runs(
    project: Project, arguments: tuple[str, ...], environment: dict[str, str], passes: bool
) -> None:
    passed, lines = project.run(*arguments, **environment)
    assert passed == passes
    assert any("--allow-slow lets it pass" in line for line in lines) != passes


def test_a_run_that_takes_longer_than_a_run_may_fails_whatever_its_suites_may(tmp_path: Path) -> None:
    passed, lines = Project(tmp_path, whole=0.05).run("tests/quick", CI="true")
    assert not passed
    assert next(row for line in lines if (row := COLOURS.sub("", line).split()) and row[0] == "wall")[2] == "0"
