"""A skipped test proves nothing: where `make test` or CI runs, a skip is a failure that keeps its reason.

`DYNLOG_NO_SKIPS` (set by scripts/check.sh) or `CI` turns this on; `--allow-skips` is the explicit way out.  Choosing
tests by `-k`, `-m` or path is not a skip, and an xfail is a claim of its own (strict: it must fail).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--allow-skips", action="store_true", help="let skipped tests pass although CI or make test runs")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_skip((yield), collector.config)


def _refuse_skip(report: Report, config: pytest.Config) -> Report:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and _forbids_skips(config):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"{reason} (a skip fails this run; --allow-skips lets it pass)"
    return report


def _forbids_skips(config: pytest.Config) -> bool:
    wanted = any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in ("CI", "DYNLOG_NO_SKIPS"))
    return wanted and not config.getoption("--allow-skips")
