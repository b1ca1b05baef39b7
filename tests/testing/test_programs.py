"""A program is found on PATH, else in the cache in its newest version, else the error says how to get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynlog.testing.process import ServerNotAvailable
from dynlog.testing.programs import find_in_cache, find_program


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DYNLOG_CACHE", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return folder


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True)
    path.touch(mode)
    return path


def test_the_newest_version_in_the_cache_counts_by_number_not_by_letter(cache: Path) -> None:
    program(cache / "server-2.9.30" / "server")
    newest = program(cache / "server-2.15.2" / "server")
    program(cache / "server-2.10.1" / "server")
    assert find_program("server", provide="") == newest


def test_path_comes_before_the_cache(cache: Path, tmp_path: Path) -> None:
    program(cache / "server-2.9.30" / "server")
    on_path = program(tmp_path / "bin" / "server")
    assert find_program("server", provide="") == on_path


def test_what_we_make_ourselves_is_never_taken_from_path(cache: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "kafka")
    with pytest.raises(ServerNotAvailable, match=f"kafka is not in {cache}: do this"):
        find_in_cache("kafka", provide="do this")
    ours = program(cache / "kafka-4.1.1" / "kafka")
    assert find_in_cache("kafka", provide="do this") == ours


def test_a_file_that_cannot_be_run_or_belongs_to_another_server_does_not_count(cache: Path) -> None:
    program(cache / "server-1.0" / "server", mode=0o644)
    program(cache / "server-tools-1.0" / "server-tools")
    with pytest.raises(ServerNotAvailable, match=f"server is neither on PATH nor in {cache}: do this"):
        find_program("server", provide="do this")
