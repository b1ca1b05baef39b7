"""Call paths over the log: a server and a caller, each with the log opened for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dynlog.network.calls import CallPath
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services
from dynlog.open import open_log
from tests.network.call_backend import CALLER, SERVER
from tests.network.call_suite import StreamSuite, UnarySuite

NAME = "fleet"


class LogBackend(UnarySuite, StreamSuite):
    """No `BackpressureSuite`: a log takes what is appended, however slowly it is read."""

    max_body = 900_000
    """A record is one append, whose size the engine limits."""

    def url(self, tmp_path: Path) -> str:
        raise NotImplementedError

    @asynccontextmanager
    async def serving(self, services: Services, tmp_path: Path) -> AsyncIterator[CallPath]:
        url = self.url(tmp_path)
        async with (
            open_log(url) as there,
            open_log(url) as here,
            LogServer.open(there, NAME, services, [SERVER], grace=0.5),
            LogCaller.open(here, NAME, CALLER) as caller,
        ):
            yield caller
