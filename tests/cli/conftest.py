"""A new log for every test, and `dynlog` in this process, which is much faster than in one of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from dynlog.cli.app import main
from tests.cli.process import Outcome


class Cli(Protocol):
    """Runs one command line to its end."""

    def __call__(self, *arguments: str, stdin: str | bytes = b"") -> Outcome: ...


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    """The URL of a log that does not exist yet; commands find it in DYNLOG_LOG as well."""
    return f"sqlite://{tmp_path}/events.db"


@pytest.fixture
def cli(
    log_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """`dynlog`, with DYNLOG_LOG set to `log_url`, real descriptors for stdin, stdout and stderr, and no terminal."""
    monkeypatch.setenv("DYNLOG_LOG", log_url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("DYNLOG_TRACEBACK", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str, stdin: str | bytes = b"") -> Outcome:
        given = tmp_path / "stdin"
        given.write_bytes(stdin if isinstance(stdin, bytes) else stdin.encode())
        capfd.readouterr()
        with given.open() as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            status = main(arguments)
        said = capfd.readouterr()
        return Outcome(status, said.out, said.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
