"""`python -m benchmarks [--quick] [NAME...]`: every benchmark in turn, each in a process of its own, so that none
measures another's heap or caches.  Exit status 1 if a promise was missed or a benchmark failed."""

from __future__ import annotations

import argparse
import ast
import json
import multiprocessing
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import REPOSITORY, machine_facts
from benchmarks.one import run_benchmark
from benchmarks.report import Row, print_table, report_console

HERE = Path(__file__).resolve().parent
RESULTS = REPOSITORY / "benchmarks" / "results"


def find_benchmarks(folder: Path = HERE) -> list[str]:
    """Names of the modules that define ``run``; found by reading, since importing all would slow each one's start."""
    return [
        path.stem
        for path in sorted(folder.glob("*.py"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "run"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    ]


def main() -> int:
    """Runs, prints, writes; returns the exit status."""
    known = find_benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones (default: all): {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="small inputs; shows that it runs, proves no promise")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(known))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; known are {', '.join(known)}")

    console = report_console()
    started = datetime.now(UTC)
    tables: dict[str, list[Row]] = {}
    failed: dict[str, str] = {}
    for name in chosen.names or known:
        console.rule(name, align="left")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                tables[name] = process.submit(run_benchmark, name, chosen.quick).result()
            except Exception as error:  # one broken benchmark must not cost the others' hours
                failed[name] = "".join(traceback.format_exception(error))
                console.print(f"{name} failed\n{failed[name]}", style="bold red", markup=False)
                continue
        print_table(name, tables[name], console)

    document = {
        "date": started.isoformat(timespec="seconds"),
        "quick": chosen.quick,
        "machine": machine_facts(),
        "benchmarks": {name: [row.as_json() for row in rows] for name, rows in tables.items()},
        "failed": failed,
    }
    text = json.dumps(document, indent=1) + "\n"
    chosen.results.mkdir(parents=True, exist_ok=True)
    # A quick or partial run must not pass for the project's latest figures.
    complete = not (chosen.quick or chosen.names or failed)
    for name in [f"{started:%Y-%m-%dT%H%M%SZ}.json", *(["latest.json"] if complete else [])]:
        (chosen.results / name).write_text(text, encoding="utf-8")
        console.print(f"written: {chosen.results / name}", soft_wrap=True)
    missed = [f"{name}: {row.name}" for name, rows in tables.items() for row in rows if row.met is False]
    for line in missed:
        console.print(f"MISSED {line}", style="bold red", soft_wrap=True)
    return 1 if failed or (missed and not chosen.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
