"""``dynlog net`` as a person uses it: real processes, one log between them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.network.call_backend import PATIENCE_S


async def net(*arguments: str, standard_input: bytes = b"") -> tuple[int, str, str]:
    """Status, output and errors of a command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynlog.cli", "net", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            out, err = await process.communicate(standard_input)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


async def said(*arguments: str, standard_input: bytes = b"") -> str:
    """The output of a command that succeeds."""
    status, out, err = await net(*arguments, standard_input=standard_input)
    assert (status, err) == (0, "")
    return out


@asynccontextmanager
async def serving(url: str, name: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An instance that has joined."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dynlog.cli", "net", "serve", name, "--log", url, *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            assert process.stdout is not None
            assert (await process.stdout.readline()).startswith(f"instance:{name}#".encode())
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2 * PATIENCE_S):
            await process.communicate()


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A log with two instances of fleet/backend, the first on two wires."""
    url = f"sqlite://{tmp_path}/net.db"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            serving(
                url, "fleet/backend/0", "--listen", "tcp://127.0.0.1:0", "--listen", f"uds://{tmp_path}/0",
                "--parent", "fleet/backend",
            )
        )  # fmt: skip
        await stack.enter_async_context(serving(url, "fleet/backend/1", "--parent", "fleet/backend"))
        yield url


async def test_a_call_prints_its_reply_and_a_stream_a_line_for_each(url: str) -> None:
    assert await said("call", "fleet/backend/0", "echo", "hello", "--log", url) == "hello\n"
    assert await said("call", "fleet/backend/0", "words", "one by one", "--stream", "--log", url) == "one\nby\none\n"
    assert await said("call", "fleet/backend/1", "echo", "-", "--log", url, standard_input=b"piped") == "piped\n"


async def test_a_call_of_a_collection_prints_each_reply_and_names_who_is_missing(url: str) -> None:
    lines = (await said("call", "collection:fleet", "echo", "x", "--log", url)).splitlines()
    assert [line.split("#")[0] for line in lines] == sorted(line.split("#")[0] for line in lines)
    assert sorted(line.partition("#")[0] for line in lines) == ["instance:fleet/backend/0", "instance:fleet/backend/1"]
    status, out, err = await net("call", "collection:fleet", "nope", "x", "--log", url)
    assert (status, out) == (3, "")
    assert err.startswith("dynlog: ")
    assert "2 of collection:fleet did not answer" in err


async def test_a_call_that_cannot_be_made_is_one_line_and_a_status(url: str) -> None:
    for arguments, words in (
        (("nobody", "echo"), "not in the registry"),
        (("fleet/backend/0", "nope"), "nobody serves 'nope'"),
        (("collection:empty", "echo"), "has no instances"),
        (("thing:x", "echo"), "is no entity"),
    ):
        status, out, err = await net("call", *arguments, "--log", url)
        assert status in (1, 2)
        assert out == ""
        assert words in err
        assert len(err.splitlines()) == 1


async def test_a_ping_says_by_which_wire_and_how_long(url: str) -> None:
    found = json.loads(await said("ping", "fleet/backend/0", "-n", "3", "--wire", "tcp", "--log", url, "--json"))
    assert (found["peer"], found["wire"], found["count"]) == ("instance:fleet/backend/0", "tcp", 3)
    assert 0 < found["min_ms"] <= found["median_ms"] <= found["max_ms"]
    assert " by uds: 1 calls" in await said("ping", "fleet/backend/0", "-n", "1", "--log", url)


async def test_stats_show_what_was_served(url: str) -> None:
    await said("call", "fleet/backend/1", "echo", "x", "--log", url)
    (found,) = json.loads(await said("stats", "fleet/backend/1", "--log", url, "--json"))
    assert [service["served"] for service in found["services"] if service["topic"] == "echo"] == [1]
    shown = await said("stats", "collection:fleet", "--log", url)
    assert "serves echo: 1 served, 0 failed" in shown
    assert "talks to instance:dynlog-net" in shown


async def test_a_switch_changes_the_wire_of_a_running_instance(url: str) -> None:
    # The first of the two has no session with the second until something makes one; a switch does.
    switched = await said("switch", "fleet/backend/1", "fleet/backend/0", "uds", "--log", url)
    assert switched.startswith("instance:fleet/backend/1 talks to instance:fleet/backend/0 by uds://")
    status, _, err = await net("switch", "fleet/backend/1", "fleet/backend/0", "zmq", "--log", url)
    assert status == 1
    assert "does not listen on zmq://" in err


async def test_an_instance_that_is_started_again_fences_the_first_which_ends_and_says_why(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/net.db"
    async with serving(url, "solo") as first, serving(url, "solo"):
        async with asyncio.timeout(2 * PATIENCE_S):
            _, err = await first.communicate()
        assert first.returncode == 1
        assert b"must stop" in err
        assert await said("call", "solo", "echo", "still", "--log", url) == "still\n"


async def test_an_instance_that_is_interrupted_leaves_and_ends_in_order(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/net.db"
    async with serving(url, "solo") as process:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(2 * PATIENCE_S):
            _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
    status, _, err_text = await net("call", "solo", "echo", "--log", url)
    assert status == 1
    assert "not in the registry" in err_text
