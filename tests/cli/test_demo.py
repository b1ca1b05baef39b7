"""The demo as a person sees it who does not wait for its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.process import PATIENCE_S


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_says_that_nothing_was_compared_and_exits_0(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [sys.executable, "-m", "dynlog.cli", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert "publish" in demo.stdout.readline()
        demo.send_signal(number)
        _, said = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, said) == (0, "dynlog: interrupted: the states were not compared\n")
    assert not list(tmp_path.iterdir())
