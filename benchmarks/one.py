"""One benchmark in the child process that is its own: spawn cannot import what stands in ``__main__``."""

from __future__ import annotations

import importlib

from benchmarks.report import Row


def run_benchmark(name: str, quick: bool) -> list[Row]:
    """The rows of one benchmark."""
    module = importlib.import_module(f"benchmarks.{name}")
    rows: list[Row] = module.run(quick)
    return rows
