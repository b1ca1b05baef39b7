"""A credentials file lets its user in, in operator mode, and nobody else's does."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynlog.adapters.nats.access import NatsAccess, open_nats
from dynlog.adapters.nats.streams import list_streams
from dynlog.errors import ConfigurationError, SourceRefused
from tests.nats_source.operator_mode import operator_mode
from tests.nats_source.source import Configured


async def test_a_credentials_file_lets_its_user_in_and_nobody_elses_does(tmp_path: Path) -> None:
    server = Configured(tmp_path / "nats")
    server.lines, creds, foreign = operator_mode(tmp_path)
    async with server:
        async with open_nats(NatsAccess(server.url, creds=creds)) as source:
            assert await list_streams(source) == []
        for access in (NatsAccess(server.url, creds=foreign), NatsAccess(server.url)):
            with pytest.raises(SourceRefused, match="does not let this user in"):
                async with open_nats(access):
                    pass


async def test_a_file_that_holds_no_credentials_is_named(tmp_path: Path) -> None:
    server = Configured(tmp_path / "nats")
    server.lines, _, _ = operator_mode(tmp_path)
    file = tmp_path / "bad.creds"
    async with server:
        for text in ("", "no credentials", "-----BEGIN NATS USER JWT-----\nx\n"):
            file.write_text(text, encoding="ascii")
            with pytest.raises(ConfigurationError, match=r"bad\.creds"):
                async with open_nats(NatsAccess(server.url, creds=file)):
                    pass
