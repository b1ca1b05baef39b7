"""Commands that speak to NATS: an address that is none, and a package that is not installed, are said in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dynlog.cli.app import main

PATIENCE_S = 30
HIDDEN = "import sys; sys.modules['nats'] = None; from dynlog.cli.app import entry; sys.exit(entry())"
NATS, LOG, OBJECTS = ("--nats", "nats://127.0.0.1:4222"), ("--log", "memory://"), ("--objects", "memory://")
MIRROR = ("mirror", "nats", "--direction", "in", "--stream", "s", "--topic", "t")
CUTOVER = ("mirror", "nats", "cutover", "--stream", "s", "--topic", "t")


@pytest.mark.parametrize(
    "arguments",
    [
        ("migrate", "nats", "plan", *NATS, *LOG, *OBJECTS),
        ("migrate", "nats", "apply", *NATS, *LOG, *OBJECTS),
        ("migrate", "nats", "verify", *NATS, *LOG, *OBJECTS),
        ("migrate", "nats", "status", *LOG),
        ("migrate", "nats", "rollback", "--yes", *LOG, *OBJECTS),
        (*MIRROR, *NATS, *LOG),
        (*CUTOVER, *NATS, *LOG),
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_without_the_package_a_command_says_in_one_line_what_to_install(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stderr == "dynlog: error: NATS needs the package 'nats-py': pip install 'dynlog[nats]'\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [("migrate", "nats", "plan", *LOG, *OBJECTS), (*MIRROR, *LOG), (*CUTOVER, *LOG)],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_a_host_alone_is_no_url_and_its_password_is_not_told(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--nats", "user:secret@host:4222"]) == 2
    said = capsys.readouterr().err
    assert "is not a URL: write nats://HOST:4222" in said
    assert "secret" not in said
    assert said.count("\n") == 1
