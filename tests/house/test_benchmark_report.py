"""A table of measurements hides no miss."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.report import Row, print_table


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("rebuild", 5.0, "M blocks/s", peer=2.5, required=">= 1x"), True),
        (Row("rebuild", 2.0, "M blocks/s", peer=2.5, required=">= 1x"), False),
        (Row("append", 0.92, "batches/s", peer=1.0, required=">= 0.9x"), True),
        (Row("find p50", 9.0, "us", peer=20.0, required="<= 8.7"), False),
        (Row("find p50", 8.7, "us", required="<= 8.7"), True),
        (Row("replay", 1.0, "records/s"), None),
    ],
)
def test_a_promise_is_judged_on_the_value_or_with_an_x_on_the_ratio(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert row.as_json()["met"] is met


@pytest.mark.parametrize("required", ["5", "> 5", ">= x", ">= 1.0 x", "fast"])
def test_a_promise_that_cannot_be_judged_is_no_row(required: str) -> None:
    with pytest.raises(ValueError, match="required is"):
        Row("rebuild", 1.0, "s", peer=1.0, required=required)


def test_a_promised_ratio_without_a_peer_is_no_row() -> None:
    with pytest.raises(ValueError, match="needs a peer"):
        Row("rebuild", 1.0, "s", required=">= 1x")


def test_a_miss_stands_in_the_table_in_words() -> None:
    text = io.StringIO()
    rows = [Row("good", 2.0, "s", required="<= 3"), Row("bad", 4.0, "s", required="<= 3")]
    print_table("times", rows, Console(file=text, width=120))
    lines = text.getvalue().splitlines()
    assert ["MISSED" in line for line in lines if "good" in line or "bad" in line] == [False, True]
