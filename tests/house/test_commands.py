"""What `make` does at its edges: one clear line where something is missing, nothing where nothing is to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.repository import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
TARGETS = ("install", "demo", "test", "bench", "soak", "servers", "lint", "clean", "help")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_make_alone_lists_the_commands() -> None:
    listed = run("make")
    assert listed.returncode == 0
    assert set(TARGETS) <= set(re.findall(r"^  make (\w+) ", listed.stdout, re.MULTILINE))


def test_ci_runs_make_test_and_nothing_else() -> None:
    commands = [
        line for line in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]  # fmt: skip
    assert commands == ["exec make test"]


def test_install_without_a_python_says_so_in_one_line(tmp_path: Path) -> None:
    missing = run(SCRIPTS / "install.sh", tmp_path / "venv", PYTHON=str(tmp_path / "no-python"))
    assert missing.returncode != 0
    (line,) = missing.stderr.splitlines()
    assert "no Python 3.11 or newer found" in line
    assert not (tmp_path / "venv").exists()


def test_a_server_that_is_not_there_is_named_and_not_built_behind_a_tests_back(tmp_path: Path) -> None:
    asked = run(SCRIPTS / "servers" / "nats.sh", "--where", DYNLOG_CACHE=str(tmp_path))
    assert asked.returncode != 0
    assert re.fullmatch(r"nats\.sh: nats-server [\d.]+ is not in .+\n", asked.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_be_built_for_want_of_go_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "basename", "mkdir", "mktemp", "rm", "flock"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    cache = tmp_path / "cache"
    asked = run(SCRIPTS / "servers" / "nats.sh", DYNLOG_CACHE=str(cache), PATH=str(tools))
    assert asked.returncode != 0
    assert asked.stdout == ""
    assert "'go' is not on PATH" in asked.stderr
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


PROVIDER = """
. {lib}
build() {{ echo built >> {count}; printf '#!/bin/sh\\n' > "$1/thing"; chmod +x "$1/thing"; }}
provide thing 1.0 build
"""


def test_two_clones_that_ask_at_once_build_a_server_once(tmp_path: Path) -> None:
    script = tmp_path / "thing.sh"
    count = tmp_path / "count"
    script.write_text(PROVIDER.format(lib=SCRIPTS / "servers" / "lib.sh", count=count), encoding="utf-8")
    environment = {**os.environ, "DYNLOG_CACHE": str(tmp_path / "cache")}
    clones = [
        subprocess.Popen(
            ["bash", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(8)
    ]
    answers = {clone.communicate(timeout=30)[0].strip() for clone in clones}
    assert answers == {str(tmp_path / "cache" / "thing-1.0" / "thing")}
    assert count.read_text(encoding="utf-8") == "built\n"


SKIPPING = """
import pytest

@pytest.mark.skip(reason="no server")
def test_marked(): ...

def test_inside():
    pytest.skip("no server")

@pytest.mark.xfail(reason="known", strict=True)
def test_known_to_fail():
    assert False
"""
SKIPPING_MODULE = "import pytest\npytest.skip('no module', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "failures"),
    [
        ([], {"DYNLOG_NO_SKIPS": "1"}, 3),
        ([], {"CI": "true"}, 3),
        (["--allow-skips"], {"CI": "true"}, 0),
        ([], {}, 0),
        (["-k", "known"], {"CI": "true"}, 1),  # choosing tests is no skip; the module that skips itself is
    ],
)
def test_a_skip_fails_where_make_test_or_ci_runs(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], failures: int
) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING, encoding="utf-8")
    (tmp_path / "test_module.py").write_text(SKIPPING_MODULE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if name not in ("CI", "DYNLOG_NO_SKIPS")}
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--continue-on-collection-errors"]
    done = subprocess.run(
        [*pytest_command, *arguments, str(tmp_path)],
        cwd=tmp_path, env={**plain, **environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode != 0) == bool(failures), done.stdout
    refused = re.findall(r"^Skipped: .*a skip fails this run", done.stdout, re.MULTILINE)
    assert len(refused) == failures, done.stdout
