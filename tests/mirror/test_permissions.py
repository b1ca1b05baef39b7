"""A user who may not do what a mirror does is told so, and nothing is retried for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.errors import SourceRefused
from dynlog.log import Log
from dynlog.migrations.mirror.running import mirror_out, mirror_stream, mirror_subject
from tests.mirror.sides import Told, append, bodies, old_side
from tests.nats_source.source import Configured

USERS = """
authorization { users = [
  { user: all, password: p }
  { user: some, password: p, permissions: {
      publish: { deny: ["secret.>", "$JS.API.STREAM.INFO.hidden"] }, subscribe: { deny: ["secret.>"] } } }
] }
"""


async def test_a_forbidden_subject_or_stream_ends_the_mirror_with_the_servers_reason(tmp_path: Path, log: Log) -> None:
    await log.create_topic("t")
    await append(log, "t", b"1")
    server = Configured(tmp_path / "nats")
    server.lines = USERS
    async with server:
        url = f"127.0.0.1:{server.port}"
        access = NatsAccess(f"nats://some:p@{url}")
        async with old_side(f"nats://all:p@{url}", "hidden") as old, open_nats(access) as nats, asyncio.timeout(60):
            await old.publish("a", b"1")
            with pytest.raises(SourceRefused):
                await mirror_out(nats, access, log, "t", ["secret.x"], Told(), once=True)
            with pytest.raises(SourceRefused):
                await mirror_stream(nats, log, "hidden", "t2", Told(), once=True)
            with pytest.raises(SourceRefused):
                await mirror_subject(nats, log, "secret.x", "t3", Told())
            assert "p@" not in access.shown
    assert await bodies(log, "t") == [b"1"]
