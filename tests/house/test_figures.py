"""The README's figures are those of the last complete run of the benchmarks, missed promises included."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.figures import LATEST, figures, with_figures
from tests.house.repository import REPOSITORY


def test_the_readme_shows_the_figures_of_the_latest_run_and_no_others() -> None:
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert with_figures(page, figures(json.loads(LATEST.read_text(encoding="utf-8")))) == page


def document(met: bool) -> dict[str, Any]:
    row = {"name": "find", "value": 9.0, "unit": "us", "peer": 8.0, "ratio": 1.125, "required": "<= 10", "met": met}
    machine = {"command": "c", "cores": 2, "cpu": "x", "system": "s", "python": "p", "sqlite": "q", "revision": "r"}
    return {"date": "2026-01-01T00:00", "machine": {**machine, "packages": {}}, "benchmarks": {"b": [row]}}


def test_a_missed_promise_is_told_in_words_and_in_the_table() -> None:
    text = figures(document(met=False))
    assert "0 of 1 promises were kept. Missed: find (9 us, promised <= 10)." in text
    assert "| <= 10 **missed** |" in text


def test_engines_stand_side_by_side_and_one_without_a_measure_leaves_its_cell_empty() -> None:
    names = {"append: a": "durability: disk", "append: b": "durability: process", "follow p50: b": ""}
    rows = [
        {
            "name": name,
            "value": 9.0,
            "unit": "ms",
            "peer": None,
            "ratio": None,
            "required": "",
            "met": None,
            "note": note,
        }
        for name, note in names.items()
    ]
    text = figures({**document(met=True), "benchmarks": {"engines": rows}})
    assert "| | a (disk) | b (process) | unit |\n" in text
    assert "| append | 9 | 9 | ms |\n| follow p50 |  | 9 | ms |" in text


def test_a_page_without_the_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="figures"):
        with_figures("# no marks", "text")
