"""What clients write down: one line when an operation begins, one when it ended; a killed client's last one stays open.

Times are of the machine's monotonic clock, which all its processes share: an operation that ended before another began
came before it, whoever did them.  A line is one write(2) without a buffer, so SIGKILL tears the last line at most.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Kind(Enum):
    """What a client asks for."""

    GET = "get"
    PUT = "put"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Outcome(Enum):
    """What it was told."""

    OK = "ok"  # done; a read: this value under this revision
    EXISTS = "exists"  # a create lost
    CONFLICT = "conflict"  # an update, or a delete of one revision, lost
    ABSENT = "absent"  # a read or delete of a key that is not there
    FAILED = "failed"  # certainly nothing happened
    UNKNOWN = "unknown"  # it may take effect at any later time, or never


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key; ``returned`` is None while its outcome is unknown."""

    process: str
    key: str
    kind: Kind
    invoked: int
    returned: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    value: str | None = None
    """What it wrote, or what a read found."""
    expected: int | None = None
    """The revision that an update or delete replaces."""
    revision: int | None = None
    """Of what it wrote, or of what a read found; None where it was not told."""

    def __str__(self) -> str:
        asked = " ".join(
            [self.kind.value, self.key]
            + ([] if self.expected is None else [f"if {self.expected}"])
            + ([] if self.value is None or self.kind is Kind.GET else [repr(self.value)])
        )
        found = [self.outcome.value, *([] if self.revision is None else [f"@{self.revision}"])]
        if self.kind is Kind.GET and self.value is not None:
            found.append(repr(self.value))
        return f"[{self.invoked}..{self.returned or ''}] {self.process}: {asked} -> {' '.join(found)}"


class Recorder:
    """Writes one process's operations into a file of its own; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._number = 0

    def invoke(
        self, process: str, kind: Kind, key: str, *, value: str | None = None, expected: int | None = None
    ) -> int:
        """Notes that an operation begins, before it does; gives the number under which to say how it ended."""
        self._number += 1
        self._write(
            {
                "n": self._number,
                "process": process,
                "kind": kind.value,
                "key": key,
                "value": value,
                "expected": expected,
            }
        )
        return self._number

    def ended(self, number: int, outcome: Outcome, *, value: str | None = None, revision: int | None = None) -> None:
        """Notes how it ended, after it did."""
        self._write({"n": number, "outcome": outcome.value, "value": value, "revision": revision})

    def _write(self, what: dict[str, Any]) -> None:
        # The clock is read before an operation is asked for and after it was answered: intervals are never too short.
        line = json.dumps({"t": time.monotonic_ns(), **{k: v for k, v in what.items() if v is not None}}) + "\n"
        os.write(self._file, line.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)


def read_history(path: Path) -> list[Operation]:
    """One client's operations, in the order in which they began."""
    begun: dict[int, Operation] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:  # what stands behind the last newline was torn by a kill
        told = json.loads(line)
        number = told["n"]
        if "kind" in told:
            begun[number] = Operation(
                told["process"], told["key"], Kind(told["kind"]), told["t"],
                value=told.get("value"), expected=told.get("expected"),
            )  # fmt: skip
        else:
            begun[number] = _ended(begun[number], told)
    return list(begun.values())


def _ended(begun: Operation, told: dict[str, Any]) -> Operation:
    outcome = Outcome(told["outcome"])
    return Operation(
        begun.process, begun.key, begun.kind, begun.invoked,
        returned=None if outcome is Outcome.UNKNOWN else told["t"], outcome=outcome,
        value=told.get("value") if begun.kind is Kind.GET else begun.value,
        expected=begun.expected, revision=told.get("revision"),
    )  # fmt: skip


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations that tell something, of each key: keys are independent of each other."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        says_nothing = operation.outcome is Outcome.FAILED or (
            operation.kind is Kind.GET and operation.outcome is Outcome.UNKNOWN
        )
        if not says_nothing:
            found.setdefault(operation.key, []).append(operation)
    return found
