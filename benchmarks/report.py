"""A row is one measured number, what a peer reached in the same run, and what was promised: a table hides no miss."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

FILE_WIDTH = 200
_REQUIRED = re.compile(r"(>=|<=) ?([0-9.]+)(x?)")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number.

    ``peer`` is in the same unit and of the same run.  ``required`` is a bound on the value (``>= 1e6`` is written
    ``>= 1000000``; ``<= 8.7``) or, with an x, on the ratio of value and peer (``>= 1x``, ``>= 0.9x``).
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    required: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.required and not _REQUIRED.fullmatch(self.required):
            raise ValueError(f"{self.name}: required is '>= 3', '<= 3', '>= 3x' or '<= 3x', not {self.required!r}")
        if self.required.endswith("x") and not self.peer:
            raise ValueError(f"{self.name}: a required ratio needs a peer")

    @property
    def ratio(self) -> float | None:
        """Value over peer."""
        return self.value / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the promise holds; None if nothing was promised."""
        match = _REQUIRED.fullmatch(self.required)
        if match is None:
            return None
        relation, bound, of_ratio = match.groups()
        measured = self.ratio if of_ratio else self.value
        assert measured is not None, "a required ratio has a peer"
        return measured >= float(bound) if relation == ">=" else measured <= float(bound)

    def as_json(self) -> dict[str, object]:
        """All fields, with ratio and met."""
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "peer": self.peer, "ratio": self.ratio,
            "required": self.required, "met": self.met, "note": self.note,
        }  # fmt: skip


def report_console() -> Console:
    """A terminal's own width, and wide lines into a file or pipe."""
    return Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)


def print_table(title: str, rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints the rows; a promise that is not met stands in red with the word MISSED."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading, justify in (
        ("", "left"), ("value", "right"), ("unit", "left"), ("peer", "right"), ("ratio", "right"),
        ("required", "right"), ("", "left"), ("note", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        verdict = {None: "", True: "[green]ok[/]", False: "[bold red]MISSED[/]"}[row.met]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.name, _short(row.value), row.unit, _short(row.peer), ratio, row.required, verdict, row.note)
    (console or report_console()).print(table)


def _short(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
