"""`dynlog log read`: every record once, exactly, from the place that was named; and then it ends, or follows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cli.process import PATIENCE_S, Dynlog, dynlog


@pytest.fixture(autouse=True)
def topic(cli: Cli) -> None:
    assert cli("log", "create", "events", "--partitions", "3").status == 0


def append(cli: Cli, partition: int, *bodies: str) -> None:
    done = cli("log", "append", "events", "--partition", str(partition), stdin="".join(f"{b}\n" for b in bodies))
    assert done.status == 0, done.err


def read(cli: Cli, *options: str) -> list[dict[str, Any]]:
    done = cli("log", "read", "events", "--json", *options)
    assert (done.status, done.err) == (0, "")
    return [json.loads(line) for line in done.lines]


def bodies(records: list[dict[str, Any]]) -> list[str]:
    return [record["parts"][0] for record in records]


def test_a_record_as_json_has_every_field(cli: Cli) -> None:
    cli("log", "append", "events", "--partition", "1", "--key", "k", "--header", "h=v", stdin="body\n")
    (record,) = read(cli)
    assert record.pop("log_time").endswith("Z")
    assert record.pop("mark").keys() == {"producer_id", "epoch", "sequence"}
    assert record == {
        "partition": 1,
        "offset": 0,
        "timestamp": None,
        "key": "k",
        "headers": {"h": "v"},
        "control": None,
        "parts": ["body"],
    }


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"plain", "plain"),
        ("Grüße, 世界".encode(), "Grüße, 世界"),
        (b"tab\tis text", "tab\tis text"),
        (b'{"base64": "AA=="}', '{"base64": "AA=="}'),
        (b"\x1b[31m", {"base64": "G1szMW0="}),
        (b"\xff", {"base64": "/w=="}),
        (b"\x00", {"base64": "AA=="}),
    ],
)
def test_bytes_are_a_string_exactly_if_they_are_printable_text(cli: Cli, body: bytes, shown: object) -> None:
    cli("log", "append", "events", stdin=body)
    assert read(cli)[0]["parts"] == [shown]


def test_people_never_get_control_characters_on_their_terminal(cli: Cli) -> None:
    cli("log", "append", "events", "--partition", "0", stdin=b"\x1b[31mred\nt\tb\n")
    first, second = cli("log", "read", "events").lines
    assert first.startswith("0 0  ")
    assert first.endswith("  <8 bytes 1b5b33316d726564>")
    assert second.endswith(r"  t\tb")


def test_all_partitions_are_merged_by_log_time_when_none_is_named(cli: Cli) -> None:
    for partition, body in ((2, "a"), (0, "b"), (1, "c"), (0, "d")):
        append(cli, partition, body)
    assert bodies(read(cli)) == ["a", "b", "c", "d"]


def test_one_partition_alone(cli: Cli) -> None:
    append(cli, 0, "a")
    append(cli, 1, "b", "c")
    assert bodies(read(cli, "--partition", "1")) == ["b", "c"]


@pytest.mark.parametrize(
    ("where", "found"),
    [("earliest", ["0", "1", "2"]), ("1", ["1", "2"]), ("3", []), ("end", []), ("1h", ["0", "1", "2"])],
)
def test_it_begins_where_it_is_told_to(cli: Cli, where: str, found: list[str]) -> None:
    append(cli, 0, "0", "1", "2")
    assert bodies(read(cli, "--partition", "0", "--from", where)) == found


def test_the_log_time_of_a_record_is_a_place_to_begin(cli: Cli) -> None:
    for body in ("a", "b", "c"):
        append(cli, 0, body)
    second = read(cli)[1]
    assert bodies(read(cli, "--from", second["log_time"])) == ["b", "c"]


def test_a_limit_ends_it_after_so_many_records(cli: Cli) -> None:
    append(cli, 0, "a", "b", "c")
    assert bodies(read(cli, "--limit", "2")) == ["a", "b"]
    assert read(cli, "--limit", "0") == []


@pytest.mark.parametrize("options", [["--from", "4"], ["--partition", "0", "--from", "4"]])
def test_an_offset_beyond_the_end_is_an_error_and_not_an_empty_answer(cli: Cli, options: list[str]) -> None:
    append(cli, 0, "a", "b", "c")
    done = cli("log", "read", "events", *options)
    assert (done.status, done.out) == (1, "")
    assert "offset 4 lies beyond the end 3" in done.complaint


def test_an_offset_that_was_truncated_is_an_error_that_names_the_earliest(cli: Cli) -> None:
    append(cli, 0, "a", "b", "c")
    cli("log", "truncate", "events", "--partition", "0", "--before", "2")
    done = cli("log", "read", "events", "--partition", "0", "--from", "1")
    assert (done.status, done.out) == (1, "")
    assert "earliest that is left is 2" in done.complaint
    assert bodies(read(cli, "--partition", "0")) == ["c"]


@pytest.mark.parametrize("where", ["-1", "yesterday", "2025-13-01", ""])
def test_a_place_that_is_none_is_refused(cli: Cli, where: str) -> None:
    done = cli("log", "read", "events", "--from", where)
    assert (done.status, done.out) == (2, "")
    assert "--from" in done.complaint


async def test_following_shows_what_other_processes_append_until_it_is_interrupted(log_url: str) -> None:
    async with (
        Dynlog.start("log", "append", "events", "--partition", "2", "--log", log_url) as append,
        Dynlog.start("log", "read", "events", "--follow", "--json", "--log", log_url) as follow,
    ):
        for number in range(3):
            await append.say(f"{number}\n")
            record = json.loads(await follow.line())
            assert (record["partition"], record["offset"], record["parts"]) == (2, number, [str(number)])
        follow.signal(signal.SIGTERM)
        done = await follow.ended()
        assert (done.status, done.out, done.err) == (0, "", "")


async def test_following_ends_by_itself_at_its_limit(log_url: str) -> None:
    async with (
        Dynlog.start("log", "read", "events", "--follow", "--limit", "2", "--json", "--log", log_url) as follow,
        Dynlog.start("log", "append", "events", "--partition", "0", "--log", log_url) as append,
    ):
        await append.say("a\nb\nc\n")
        done = await follow.ended()
        assert (done.status, [json.loads(line)["parts"] for line in done.lines]) == (0, [["a"], ["b"]])


async def test_following_ends_quietly_when_its_reader_goes_away_although_nothing_is_appended(log_url: str) -> None:
    await dynlog("log", "append", "events", "--log", log_url, stdin="a\n")
    async with Dynlog.start("log", "read", "events", "--follow", "--log", log_url) as follow:
        assert (await follow.line()).endswith("a")
        follow.stop_listening()
        assert await follow.ended_with_stdin_open() == 141
        assert (await follow.ended()).err == ""


def test_an_interrupt_is_heard_although_the_reader_of_the_output_has_stopped_reading(cli: Cli, log_url: str) -> None:
    append(cli, 0, *["x" * 1000] * 2000)  # far more than a pipe holds
    command = [sys.executable, "-m", "dynlog.cli", "log", "read", "events", "--follow", "--log", log_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as follow:
        assert follow.stdout is not None
        follow.stdout.read(1)
        follow.send_signal(signal.SIGTERM)
        assert follow.wait(PATIENCE_S) == 0


async def test_following_ends_with_an_error_when_the_topic_is_deleted(log_url: str) -> None:
    await dynlog("log", "append", "events", "--log", log_url, stdin="a\n")
    async with Dynlog.start("log", "read", "events", "--follow", "--log", log_url) as follow:
        await follow.line()
        assert (await dynlog("log", "delete", "events", "--yes", "--log", log_url)).status == 0
        done = await follow.ended()
        assert done.status == 1
        assert "events" in done.complaint
