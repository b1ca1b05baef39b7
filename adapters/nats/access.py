"""How to get at a NATS server that is only read from, and the one connection to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.client import Client

API_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Where a NATS server is and as whom to come; secrets are never printed."""

    url: str = field(repr=False)
    creds: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        raise NotImplementedError


class NatsServer:
    """A connection that only reads."""

    client: Client
    shown: str
    version: tuple[int, int, int]
    max_payload: int

    async def api(
        self, subject: str, request: Mapping[str, Any] | None = None, *, timeout: float = API_TIMEOUT_S
    ) -> dict[str, Any]:
        """The answer to ``$JS.API.<subject>``.

        Raises SourceNotFound (no such stream, message or consumer), SourceRefused (a permission, JetStream is off),
        SourceUnavailable (no answer in time).
        """
        raise NotImplementedError


@asynccontextmanager
async def open_nats(access: NatsAccess, *, timeout: float = 10.0) -> AsyncIterator[NatsServer]:
    """A connection that comes back by itself for as long as the context is open."""
    raise NotImplementedError
    yield
