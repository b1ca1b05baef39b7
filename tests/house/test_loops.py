"""A run on uvloop is one, in the processes that it starts, too, and where there is no uvloop it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.repository import REPOSITORY

TEST = """
import asyncio, subprocess, sys

CHILD = "import asyncio\\nasync def main(): print(type(asyncio.get_running_loop()).__module__)\\nasyncio.run(main())"

async def test_it():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    print("LOOPS", type(asyncio.get_running_loop()).__module__, child.stdout)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A project of one test, which says on which loops it and its child ran."""
    (folder / "test_it.py").write_text(TEST, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if name not in ("CI", "DYNLOG_NO_SKIPS")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "conftest", *arguments],
        cwd=folder, env={**plain, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(("loop", "module"), [("uvloop", "uvloop"), ("asyncio", "asyncio.unix_events")])
def test_tests_and_the_processes_that_they_start_run_on_the_loop_that_was_asked_for(
    tmp_path: Path, loop: str, module: str
) -> None:
    done = run(tmp_path, "--loop", loop)
    assert f"LOOPS {module} {module}\n" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_a_run_on_uvloop_fails_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('there is no uvloop here')\n", encoding="utf-8")
    done = run(tmp_path, "--loop", "uvloop")
    assert done.returncode != 0
    assert "there is no uvloop here" in done.stdout + done.stderr
    assert "passed" not in done.stdout


def test_make_test_has_a_stage_on_uvloop() -> None:
    assert "--loop uvloop" in (REPOSITORY / "scripts" / "check.sh").read_text("utf-8")
    (stages,) = [
        line for line in (REPOSITORY / "Makefile").read_text("utf-8").splitlines() if "check.sh servers" in line
    ]
    assert " uvloop " in stages
