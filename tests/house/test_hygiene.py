"""What the repository promises about itself, file by file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dynlog
from tests.house.repository import LINKED, REPOSITORY, package_modules, project, tracked_files

# Written with escaped dots, so that no pattern matches this file.
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|npmjs\.com|proxy\.golang\.org|sum\.golang\.org"
    r"|crates\.io|repo1?\.maven\.|deb\.debian\.org"
)
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work/(?:main|shared|steering)|roo[t]|home/\w+|Users/\w+)\b")
MOST_LINES = 350


def _texts() -> list[tuple[Path, str]]:
    texts = []
    for path in tracked_files():
        file = REPOSITORY / path
        if file.is_symlink():
            continue
        body = file.read_bytes()
        if b"\0" not in body:
            texts.append((path, body.decode("utf-8", errors="replace")))
    return texts


def _places(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_package_registry() -> None:
    assert _places(REGISTRY_HOST) == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert _places(MACHINE_PATH) == []


def test_no_module_is_longer_than_one_idea() -> None:
    modules = [path for path in tracked_files() if path.suffix == ".py" and path.parts[0] != "tests"]
    lengths = {str(path): len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_every_public_module_says_what_it_is() -> None:
    silent = [
        str(path)
        for path in package_modules()
        if not path.stem.startswith("_") or path.stem == "__init__"
        if not ast.get_docstring(ast.parse((REPOSITORY / path).read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_every_name_that_dynlog_exports_is_there_and_said_once() -> None:
    assert len(set(dynlog.__all__)) == len(dynlog.__all__)
    assert [name for name in dynlog.__all__ if not hasattr(dynlog, name)] == []


def test_the_version_is_the_same_everywhere_and_the_changelog_tells_of_it() -> None:
    version = project()["project"]["version"]
    assert dynlog.__version__ == version
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = re.search(rf"^## \[{re.escape(version)}\] - .+?(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    assert entry, f"CHANGELOG.md has no entry for {version}"
    assert re.search(r"^- ", entry[0], re.MULTILINE), f"the entry for {version} says nothing"


@pytest.mark.parametrize("name", LINKED)
def test_each_folder_at_the_top_is_imported_through_its_symlink(name: str) -> None:
    link = REPOSITORY / "dynlog" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    assert (link / "__init__.py").is_file()


OPTIONAL = ("zmq", "yaml", "fastapi", "uvicorn", "prometheus_client", "aiokafka", "redis", "minio", "nats", "pytest")
USE_EVERY_EXPORT = """
import sys
import dynlog

for name in dynlog.__all__:
    getattr(dynlog, name)
print("\\n".join(sys.modules))
"""


def test_what_dynlog_exports_loads_no_engine_no_adapter_and_no_optional_package() -> None:
    command = [sys.executable, "-c", USE_EVERY_EXPORT]
    modules = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.split()
    assert "dynlog.log" in modules
    unwanted = (*OPTIONAL, *(f"dynlog.{name}" for name in LINKED), "dynlog.cli", "dynlog.router", "sqlite3")
    assert [name for name in modules if f"{name}.".startswith(tuple(f"{prefix}." for prefix in unwanted))] == []


def test_the_extra_named_all_is_all_extras() -> None:
    extras = project()["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = everything.removeprefix("dynlog[").removesuffix("]").split(",")
    assert sorted(named) == sorted(set(extras) - {"all"})


def test_every_dependency_is_pinned_with_a_hash() -> None:
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    requirements = [line for line in pins if line and not line.lstrip().startswith("#")]
    assert [line for line in requirements if "==" not in line or "--hash=sha256:" not in line] == []
    pinned = {_normal(re.split(r"[=\s\[;]", line, maxsplit=1)[0]) for line in requirements}
    metadata = project()
    wanted = [
        *metadata["build-system"]["requires"],
        *metadata["project"]["dependencies"],
        *(line for lines in metadata["project"]["optional-dependencies"].values() for line in lines),
        *metadata["dependency-groups"]["dev"],
    ]
    names = {_normal(re.split(r"[\[<>=!~;\s]", line, maxsplit=1)[0]) for line in wanted} - {"dynlog"}
    assert names - pinned == set(), "constraints.txt is older than pyproject.toml: make constraints"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
