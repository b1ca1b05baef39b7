"""What the writer's thread is handed, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynlog.prompt import Prompt
from dynlog.storage.sqlite.transaction import Transaction


@dataclass(slots=True)
class Job:
    """Work for one transaction, and where its outcome goes."""

    work: Callable[[Transaction], Any]
    size: int
    future: Prompt[Any]
    abandoned: bool = False
    """The caller is gone: the work is skipped if it has not begun."""


Outcome = tuple[Job, Any, Exception | None]
Advanced = Mapping[tuple[int, int], int]


class Done(NamedTuple):
    """A group that was dealt with; ``commit`` is None if nothing was changed."""

    group: list[Job]
    outcomes: list[Outcome]
    commit: int | None
    advanced: Advanced
