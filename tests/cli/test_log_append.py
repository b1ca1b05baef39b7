"""`dynlog log append`: a line is acknowledged when it is durable, line by line, whatever ends the command."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.cli.conftest import Cli
from tests.cli.process import Dynlog, dynlog

TOO_LONG = "x" * (1 << 20)


@pytest.fixture(autouse=True)
def topic(cli: Cli) -> None:
    assert cli("log", "create", "events", "--partitions", "2").status == 0


def bodies(cli: Cli) -> list[str]:
    """Every body in the log, in order of partition and offset."""
    records = [json.loads(line) for line in cli("log", "read", "events", "--json").lines]
    return [r["parts"][0] for r in sorted(records, key=lambda r: (r["partition"], r["offset"]))]


def test_each_line_of_input_gives_its_partition_and_offset_in_the_order_of_the_lines(cli: Cli) -> None:
    done = cli("log", "append", "events", "--partition", "1", stdin="a\nb\nc\n")
    assert (done.status, done.lines, done.err) == (0, ["1 0", "1 1", "1 2"], "")
    assert bodies(cli) == ["a", "b", "c"]


def test_a_line_is_its_bytes_without_the_line_feed_and_nothing_else_is_changed(cli: Cli) -> None:
    assert cli("log", "append", "events", "--partition", "0", stdin=b"\n a \r\n\xff\x00\nlast").status == 0
    assert bodies(cli) == ["", " a \r", {"base64": "/wA="}, "last"]


async def test_a_line_is_acknowledged_before_the_next_one_is_written(log_url: str) -> None:
    async with Dynlog.start("log", "append", "events", "--partition", "0", "--log", log_url) as append:
        for offset, line in enumerate(("one", "two", "three")):
            await append.say(f"{line}\n")
            assert await append.line() == f"0 {offset}"
        assert (await append.ended()).status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_interrupt_ends_it_in_order_with_what_was_taken_acknowledged(
    log_url: str, number: signal.Signals
) -> None:
    async with Dynlog.start("log", "append", "events", "--partition", "0", "--log", log_url) as append:
        await append.say("taken\nunfinished")
        assert await append.line() == "0 0"
        append.signal(number)
        assert await append.ended_with_stdin_open() == 0
        done = await append.ended()
        assert "10 bytes of an unfinished line were not taken" in done.err
    assert len((await dynlog("log", "read", "events", "--log", log_url)).lines) == 1


def test_what_was_acknowledged_under_an_interrupt_is_all_that_is_in_the_log(cli: Cli, log_url: str) -> None:
    async def interrupt() -> list[str]:
        async with Dynlog.start("log", "append", "events", "--partition", "0", "--log", log_url) as append:
            await append.say("".join(f"{n}\n" for n in range(500)))
            first = await append.line()
            append.signal(signal.SIGTERM)
            done = await append.ended()
            assert done.status == 0
            return [first, *done.lines]

    acknowledged = asyncio.run(interrupt())
    assert acknowledged == [f"0 {n}" for n in range(len(acknowledged))]
    assert bodies(cli) == [str(n) for n in range(len(acknowledged))]


@pytest.mark.parametrize("ending", ["\n", "\nmore\n", ""])
def test_a_line_that_is_too_long_is_named_and_the_lines_before_it_are_acknowledged(cli: Cli, ending: str) -> None:
    done = cli("log", "append", "events", "--partition", "0", stdin=f"a\nb\n{TOO_LONG}{ending}")
    assert (done.status, done.lines) == (1, ["0 0", "0 1"])
    assert done.complaint.startswith("line 3: ")
    assert bodies(cli) == ["a", "b"]


def test_a_line_of_endless_length_is_refused_without_being_read_to_its_end(cli: Cli) -> None:
    done = cli("log", "append", "events", stdin=b"ok\n" + b"x" * (4 << 20))
    assert done.status == 1
    assert done.complaint.startswith("line 2: more than the 1048576 bytes")


def test_the_key_stands_before_the_separator_and_decides_the_partition(cli: Cli) -> None:
    done = cli("log", "append", "events", "--key-separator", "::", stdin="k::a\nother::b\nk::c::d\n")
    assert done.lines[0].split()[0] == done.lines[2].split()[0]
    records = [json.loads(line) for line in cli("log", "read", "events", "--json").lines]
    assert sorted((r["key"], r["parts"]) for r in records) == [("k", ["a"]), ("k", ["c::d"]), ("other", ["b"])]


def test_a_line_without_the_separator_is_named_and_not_taken(cli: Cli) -> None:
    done = cli("log", "append", "events", "--key-separator", ":", stdin="k:a\noops\nk:b\n")
    assert (done.status, len(done.lines)) == (1, 1)
    assert done.complaint == "line 2: no b':' between key and body, it was not taken"
    assert bodies(cli) == ["a"]


def test_headers_and_a_fixed_key_are_on_every_record(cli: Cli) -> None:
    cli("log", "append", "events", "--key", "k", "--header", "host=a=b", stdin="1\n2\n")
    records = [json.loads(line) for line in cli("log", "read", "events", "--json").lines]
    assert [(r["key"], r["headers"]) for r in records] == [("k", {"host": "a=b"})] * 2


def test_json_names_the_line(cli: Cli) -> None:
    done = cli("log", "append", "events", "--partition", "0", "--json", stdin="a\nb\n")
    assert [json.loads(line) for line in done.lines] == [
        {"line": 1, "partition": 0, "offset": 0},
        {"line": 2, "partition": 0, "offset": 1},
    ]


async def test_it_ends_quietly_when_nobody_reads_its_output_any_more(log_url: str) -> None:
    async with Dynlog.start("log", "append", "events", "--partition", "0", "--log", log_url) as append:
        await append.say("a\n")
        assert await append.line() == "0 0"
        append.stop_listening()
        await append.say("b\n")
        assert await append.ended_with_stdin_open() == 141
        assert (await append.ended()).err == ""
