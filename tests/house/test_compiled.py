"""The compiled build is optional, and what it compiles is written so that it does the same either way."""

from __future__ import annotations

import ast
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.repository import REPOSITORY, clean_copy

COMPILED: list[str] = runpy.run_path(str(REPOSITORY / "setup.py"))["compiled_modules"]()
Handlers = dict[str, set[str]]


def handlers(function: ast.AST) -> Handlers:
    """Under each name that it catches errors by, the kinds of errors."""
    found: Handlers = {}
    for node in ast.walk(function):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type:
            found.setdefault(node.name, set()).add(ast.unparse(node.type))
    return found


@pytest.mark.parametrize("name", COMPILED)
def test_no_function_that_is_compiled_catches_errors_of_two_kinds_under_one_name(name: str) -> None:
    # In compiled code a name has one type, that of the first, and the second kind is a TypeError there.
    tree = ast.parse(REPOSITORY.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    twice = {f.name: kinds for f in functions for kinds in handlers(f).values() if len(kinds) > 1}
    assert twice == {}


def test_make_test_has_a_stage_on_the_compiled_build() -> None:
    assert "scripts/compiled.sh" in (REPOSITORY / "scripts" / "check.sh").read_text("utf-8")
    (stages,) = [
        line for line in (REPOSITORY / "Makefile").read_text("utf-8").splitlines() if "check.sh servers" in line
    ]
    assert " compiled " in stages


TOOLS = (
    "bash", "dirname", "basename", "git", "tar", "mkdir", "mktemp", "rm", "flock", "id", "touch",
)  # fmt: skip


def test_without_a_c_compiler_the_compiled_build_says_which_package_has_one(tmp_path: Path) -> None:
    copy, tools = clean_copy(tmp_path / "copy"), tmp_path / "bin"
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    (copy / ".venv").symlink_to(REPOSITORY / ".venv")
    tools.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    done = subprocess.run(
        [copy / "scripts" / "compiled.sh", "true"],
        env={**os.environ, "PATH": str(tools), "CC": "no-such-compiler", "DYNLOG_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "'no-such-compiler' is not on PATH" in done.stderr
    assert "apt-get install gcc" in done.stderr
    assert [path for path in (tmp_path / "cache" / "compiled").iterdir() if path.is_dir()] == []
