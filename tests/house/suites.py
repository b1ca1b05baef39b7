"""What each suite took in a pytest run, against its budget: a table at the end, and a failure where that counts.

A suite is a folder under tests/; its seconds are those of its tests, their fixtures included (a server that a session
shares counts for the suite that wanted it first).  Budgets are data: tests/house/budgets.toml.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

BUDGETS = Path("tests", "house", "budgets.toml")
"""Relative to pytest's rootdir."""


def read_budgets(root: Path) -> dict[str, float]:
    """Seconds by suite; empty where the project has no such file."""
    file = root / BUDGETS
    if not file.exists():
        return {}
    return {suite: float(seconds) for suite, seconds in tomllib.loads(file.read_text("utf-8"))["seconds"].items()}


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

    def __init__(self, budgets: dict[str, float]) -> None:
        self._budgets = budgets
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

    @property
    def fatal(self) -> bool:
        """Whether the run fails for it: a suite has no budget, or all together exceed all budgets together.

        One suite's excess alone is shown and does not fail the run: on a busy machine it says nothing about the suite.
        """
        budgets = [self._budgets.get(suite) for suite in self._taken]
        return None in budgets or sum(t.seconds for t in self._taken.values()) > sum(
            b for b in budgets if b is not None
        )

    def table(self) -> list[tuple[str, bool]]:
        """Lines of the table, each with whether all is well in it; empty if no suite ran."""
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
        return lines
