"""A test's server is real, is its own, and is gone with the block."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest

from tests.servers import nats_server


async def test_two_servers_run_beside_each_other_and_are_gone_after_their_blocks(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "one") as one, nats_server(tmp_path / "two") as two:
        assert one.url != two.url
        for server in (one, two):
            client = await nats.connect(server.url, allow_reconnect=False)
            assert (await client.jetstream().account_info()).streams == 0
            await client.close()
    for server in (one, two):
        where = urlsplit(server.url)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(where.hostname, where.port)


async def test_what_a_server_stored_is_there_for_the_next_one(tmp_path: Path) -> None:
    for expected in (1, 2):
        async with nats_server(tmp_path) as server:
            client = await nats.connect(server.url, allow_reconnect=False)
            js = client.jetstream()
            await js.add_stream(name="kept", subjects=["kept"])
            assert (await js.publish("kept", b"")).seq == expected
            await client.close()


async def test_a_server_that_cannot_start_fails_the_test_with_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=r"did not start:\n(?s:.*)storage directory is not a directory"):
        async with nats_server(tmp_path / "file"):
            pass


async def test_a_server_that_is_not_there_fails_the_test_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNLOG_CACHE", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="`make servers` provides it"):
        async with nats_server(tmp_path / "store"):
            pass


async def test_a_server_that_dies_in_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
