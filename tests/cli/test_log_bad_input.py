"""Whatever is wrong with the command line or the log: one line that names it, a non-zero status, nothing on stdout."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

MISUSED, FAILED = 2, 1
EVERY_LOOK = [
    ["topics"],
    ["describe"],
    ["append", "events"],
    ["read", "events"],
    ["read", "events", "--follow"],
    ["holders", "events"],
    ["truncate", "events", "--partition", "0", "--before", "1"],
    ["verify"],
    ["repair", "--quarantine"],
    ["backup", "copy.db"],
    ["delete", "events", "--yes"],
]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo:///tmp/events.db", ["foo://", "sqlite://"]),
        ("sqlite:///{folder}/events.db?syncronous=full", ["syncronous", "synchronous"]),
        ("sqlite:///{folder}/events.db?max_batch_bytes=many", ["max_batch_bytes", "many"]),
        ("sqlite:///{folder}/events.db?create=true&create=true", ["create", "twice"]),
        ("memory://name?foo=1", ["foo"]),
        ("{folder}/events.db", ["path, not a URL", "sqlite:///"]),
        ("events.db", ["path, not a URL", "sqlite:///"]),
        ("sqlite:///{folder}/missing/events.db", ["missing"]),
        ("sqlite:///{folder}", ["folder"]),
        ("sqlite://host/events.db", ["three slashes"]),
        ("sqlite://", ["names no file"]),
        ("://", ["URL"]),
        ("", ["URL"]),
        ("sqlite:///{folder}/new\nline\x1b[31m/events.db", ["\\x1b"]),
    ],
)
def test_a_url_that_cannot_work_is_named(cli: Cli, tmp_path: Path, url: str, words: list[str]) -> None:
    for command in (["topics"], ["create", "events"], ["append", "events"]):
        done = cli("log", *command, "--log", url.replace("{folder}", str(tmp_path)))
        assert (done.status, done.out) == (MISUSED, ""), done
        for word in words:
            assert word in done.complaint


@pytest.mark.parametrize("command", EVERY_LOOK, ids=lambda command: command[0])
def test_looking_at_a_log_that_is_not_there_makes_none(
    cli: Cli, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("log", *command)
    assert done.status != 0
    assert "there is no log at" in done.complaint
    assert not list(tmp_path.glob("*.db*"))


@pytest.mark.parametrize("command", EVERY_LOOK, ids=lambda command: command[0])
@pytest.mark.parametrize("url", ["sqlite://host/events.db", "sqlite:///{folder}/events.db?syncronous=full"])
def test_an_error_shows_the_url_as_it_was_written_and_no_option_that_nobody_wrote(
    cli: Cli, tmp_path: Path, command: list[str], url: str
) -> None:
    written = url.replace("{folder}", str(tmp_path))
    done = cli("log", *command, "--log", written)
    assert (done.status, done.out) == (MISUSED, ""), done
    assert written in done.complaint
    assert "create=" not in done.complaint
    assert "repair=" not in done.complaint


def test_a_negative_offset_to_truncate_before_is_refused_also_where_the_topic_exists(cli: Cli) -> None:
    cli("log", "create", "events")
    done = cli("log", "truncate", "events", "--partition", "0", "--before", "-1")
    assert (done.status, done.out) == (MISUSED, ""), done
    assert "--before" in done.complaint


def not_a_database(path: Path) -> None:
    path.write_text("these are my notes\n" * 100)


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes (text)")
    db.close()


def of_a_newer_version(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()


def truncated_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncated_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (not_a_database, "is not a dynlog log"),
        (another_database, "not a dynlog log"),
        (of_a_newer_version, "is a log of version 99"),
        (truncated_to_half, "damaged"),
        (truncated_to_nothing, "acknowledged records are lost"),
    ],
)
@pytest.mark.parametrize("command", EVERY_LOOK[:6], ids=lambda command: command[0])
def test_a_file_that_is_no_sound_log_is_named_and_left_alone(
    cli: Cli, log_url: str, spoil: Callable[[Path], None], words: str, command: list[str]
) -> None:
    path = Path(log_url.removeprefix("sqlite://"))
    if spoil not in (not_a_database, another_database):
        cli("log", "create", "events")
        cli("log", "append", "events", stdin="x" * 9000)
    spoil(path)
    before = path.read_bytes()
    done = cli("log", *command)
    assert (done.status, done.out) == (FAILED, ""), done
    assert words in done.complaint
    assert str(path) in done.complaint
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(cli: Cli) -> None:
    folder = f"/proc/{os.getpid()}"  # not even root makes a file there
    done = cli("log", "create", "events", "--log", f"sqlite://{folder}/events.db")
    assert (done.status, done.out) == (MISUSED, "")
    assert folder in done.complaint


@pytest.mark.parametrize("command", [c for c in EVERY_LOOK if "events" in c], ids=lambda command: command[0])
def test_a_topic_that_does_not_exist_is_named(cli: Cli, command: list[str]) -> None:
    cli("log", "create", "other")
    done = cli("log", *command, stdin="x\n")
    assert (done.status, done.out) == (FAILED, "")
    assert "'events'" in done.complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "events", "--partitions", "0"], "partitions"),
        (["create", "events", "--partitions", "x"], "--partitions"),
        (["create", "a b"], "topic name"),
        (["create", ""], "topic name"),
        (["create", "events", "--retention-age", "5y"], "--retention-age"),
        (["create", "events", "--retention-age", "0s"], "retention"),
        (["create", "events", "--retention-bytes", "lots"], "--retention-bytes"),
        (["create", "events", "--label", "novalue"], "label"),
        (["append", "events", "--key", "a", "--key-separator", ":"], "exclude each other"),
        (["append", "events", "--header", "novalue"], "header"),
        (["append", "events", "--key-separator", ""], "--key-separator"),
        (["read", "events", "--follow", "--until-end"], "exclude each other"),
        (["read", "events", "--limit", "-1"], "--limit"),
        (["read"], "topic"),
        (["truncate", "events", "--partition", "0"], "--before"),
        (["truncate", "events", "--partition", "0", "--before", "x"], "--before"),
        (["truncate", "events", "--partition", "0", "--before", "-1"], "--before"),
        (["truncate", "events", "--partition", "0", "--before", "-1", "--force"], "--before"),
        (["read", "events", "--from", "-1"], "--from"),
        (["read", "events", "--from", "-15m"], "--from"),
        (["read", "events", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_command_line_that_cannot_work_is_told_what_is_wrong_with_it(
    cli: Cli, arguments: list[str], words: str
) -> None:
    done = cli("log", *arguments)
    assert (done.status, done.out) == (MISUSED, ""), done
    assert words in done.complaint


@pytest.mark.parametrize(
    "arguments",
    [
        ["read", "events", "--partition", "7"],
        ["read", "events", "--partition", "-1"],
        ["append", "events", "--partition", "7"],
        ["truncate", "events", "--partition", "7", "--before", "0"],
    ],
)
def test_a_partition_that_does_not_exist_is_named(cli: Cli, arguments: list[str]) -> None:
    cli("log", "create", "events", "--partitions", "2")
    done = cli("log", *arguments, stdin="x\n")
    assert (done.status, done.out) == (FAILED, "")
    assert f"partition {arguments[3]}" in done.complaint


def test_a_log_that_is_nowhere_named_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNLOG_LOG")
    done = cli("log", "topics")
    assert done.status == MISUSED
    assert "--log" in done.complaint
    assert "DYNLOG_LOG" in done.complaint


def test_a_traceback_is_shown_to_who_asks_for_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in cli("log", "topics").err
    monkeypatch.setenv("DYNLOG_TRACEBACK", "1")
    assert "Traceback" in cli("log", "topics").err
