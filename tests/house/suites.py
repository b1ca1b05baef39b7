"""What each suite took in a pytest run, against its budget: a table at the end, and a failure where that counts.

A suite is a folder under tests/; its seconds are those of its tests, their fixtures included (a server that a session
shares counts for the suite that wanted it first).  Budgets are data: tests/house/budgets.toml.
"""

from __future__ import annotations

import math
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

BUDGETS = Path("tests", "house", "budgets.toml")
"""Relative to pytest's rootdir."""


class Budgets(NamedTuple):
    """Seconds of each suite's tests, added up, and of a whole run's wall time (tests run two at a time)."""

    suites: Mapping[str, float]
    run: float


def read_budgets(root: Path) -> Budgets:
    """Those of the project; none where it has no such file."""
    file = root / BUDGETS
    if not file.exists():
        return Budgets({}, math.inf)
    said = tomllib.loads(file.read_text("utf-8"))
    suites = {suite: float(seconds) for suite, seconds in said["seconds"].items()}
    return Budgets(suites, float(said["run"]["seconds"]))


def suite_of(test: str) -> str | None:
    """The suite of a test's node id; None for a test that lies in no folder under tests/."""
    parts = test.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else None


@dataclass
class Taken:
    """What a suite took so far."""

    tests: set[str] = field(default_factory=set)
    seconds: float = 0.0


class SuiteTimes:
    """Adds up what tests took; judges it by ``budgets``."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets.suites
        self._run = budgets.run
        self._taken: defaultdict[str, Taken] = defaultdict(Taken)

    def add(self, test: str, seconds: float) -> None:
        """One phase (setup, call or teardown) of one test."""
        if suite := suite_of(test):
            self._taken[suite].tests.add(test)
            self._taken[suite].seconds += seconds

    def problem(self, suite: str) -> str | None:
        """Why the suite's time is not in order; None if it is."""
        if (budget := self._budgets.get(suite)) is None:
            return f"no budget in {BUDGETS.as_posix()}"
        return "OVER BUDGET" if self._taken[suite].seconds > budget else None

    @property
    def problems(self) -> list[str]:
        """The suites whose time is not in order, with the reason."""
        return [f"{suite}: {problem}" for suite in sorted(self._taken) if (problem := self.problem(suite))]

    def fatal(self, wall_s: float) -> bool:
        """Whether a run of so many seconds fails for it: a suite has no budget, or the run took longer than it may.

        One suite's excess alone is shown and does not fail the run: on a busy machine it says nothing about the suite.
        """
        return bool(self._taken) and (not self._budgets.keys() >= self._taken.keys() or wall_s > self._most_s())

    def _most_s(self) -> float:
        """How long a run of these suites may take."""
        return min(sum(self._budgets.get(suite, 0.0) for suite in self._taken), self._run)

    def table(self, wall_s: float) -> list[tuple[str, bool]]:
        """Lines of the table of a run of so many seconds, each with whether all is well in it; none if no suite ran."""
        if not self._taken:
            return []
        lines = [(f"{'suite':<14}{'tests':>7}{'seconds':>10}{'budget':>9}", True)]
        for suite, taken in sorted(self._taken.items()):
            problem, budget = self.problem(suite), self._budgets.get(suite)
            shown = "-" if budget is None else f"{budget:.0f}"
            row = f"{suite:<14}{len(taken.tests):>7}{taken.seconds:>10.1f}{shown:>9}"
            lines.append((f"{row}  {problem}" if problem else row, problem is None))
        tests = sum(len(taken.tests) for taken in self._taken.values())
        seconds = sum(taken.seconds for taken in self._taken.values())
        budget = sum(self._budgets.get(suite, 0) for suite in self._taken)
        lines.append((f"{'all':<14}{tests:>7}{seconds:>10.1f}{budget:>9.0f}", not self.problems))
        lines.append((f"{'wall':<14}{'':>7}{wall_s:>10.1f}{self._most_s():>9.0f}", not self.fatal(wall_s)))
        return lines
