"""What `make test` and CI demand of a run beyond green tests: none is skipped, and the suites keep to their budgets.

A skipped test proves nothing: where `make test` or CI runs, a skip is a failure that keeps its reason.  A suite (a
folder under tests/) without a budget in tests/house/budgets.toml fails the run there, and so does a run that takes
longer than the budgets of all its suites, or than a run may.  `DYNLOG_NO_SKIPS` (set by scripts/check.sh) or `CI`
turns this on; `--allow-skips` and `--allow-slow` are the explicit ways out.  Choosing tests by `-k`, `-m` or path is
not a skip, and an xfail is a claim of its own (strict: it must fail).

`--loop uvloop` runs what is chosen, and every process that it starts, on uvloop instead of asyncio's own loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import TypeVar

import pytest

from tests.house.loops import LOOPS, run_on
from tests.house.suites import SuiteTimes, read_budgets

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--allow-skips", action="store_true", help="let skipped tests pass although CI or make test runs")
    parser.addoption("--loop", choices=LOOPS, default=LOOPS[0], help="the event loop to run on")
    parser.addoption("--allow-slow", action="store_true", help="let suites exceed their wall budgets")


def pytest_configure(config: pytest.Config) -> None:
    run_on(config.getoption("--loop"))
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers report to the one process that adds up
        config.pluginmanager.register(_Budgets(config), "dynlog-suite-budgets")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_skip((yield), collector.config)


class _Budgets:
    """Prints what each suite took; under `make test` and CI a suite over its budget fails the run."""

    def __init__(self, config: pytest.Config) -> None:
        self._times = SuiteTimes(read_budgets(config.rootpath))
        self._begun: float | None = None
        self._enforced = _is_strict() and not config.getoption("--allow-slow")

    @property
    def _taken_s(self) -> float:
        """Since the first test began."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._begun is None:
            self._begun = time.monotonic() - report.duration
        self._times.add(report.nodeid, report.duration)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._enforced and self._times.fatal(self._taken_s) and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if table := self._times.table(self._taken_s):
            terminalreporter.section("wall time by suite")
        for line, well in table:
            terminalreporter.write_line(line, red=not well)
        if self._enforced:
            for problem in self._times.problems:
                verdict = "FAILED" if self._times.fatal(self._taken_s) else "slow"
                terminalreporter.write_line(f"{verdict} {problem} (--allow-slow lets it pass)", red=True)


def _refuse_skip(report: Report, config: pytest.Config) -> Report:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and _forbids_skips(config):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"{reason} (a skip fails this run; --allow-skips lets it pass)"
    return report


def _forbids_skips(config: pytest.Config) -> bool:
    return _is_strict() and not config.getoption("--allow-skips")


def _is_strict() -> bool:
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "DYNLOG_NO_SKIPS"))
