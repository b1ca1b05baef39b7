"""What the instances of a NATS service say of themselves, each once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.exchange import nobody_there
from dynlog.errors import ConfigurationError, SourceError

MAX_INSTANCES = 100_000
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """One endpoint of an instance; ``data`` is what the service itself adds."""

    name: str
    subject: str
    requests: int
    errors: int
    processing_ns: int
    last_error: str
    data: Any


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """One instance of a service."""

    name: str
    id: str
    version: str
    started: str
    endpoints: tuple[EndpointStats, ...]


class _Census:
    """The first answer of each instance."""

    def __init__(self, name: str) -> None:
        self.subject, self._name = f"$SRV.STATS.{name}", name
        self.found: dict[str, ServiceStats] = {}
        self.nobody = asyncio.Event()
        self.error: SourceError | None = None

    def answered(self, headers: bytes, data: bytes) -> None:
        if nobody_there(headers):
            self.nobody.set()
            return
        stats = read_stats(data)
        if stats is not None and stats.name == self._name and len(self.found) < MAX_INSTANCES:
            self.found.setdefault(stats.id, stats)

    def failed(self, error: SourceError) -> None:
        self.error = error
        self.nobody.set()


async def service_stats(server: NatsServer, name: str, *, timeout: float = 2.0) -> list[ServiceStats]:
    """One answer per instance id, by id, of all that came within ``timeout`` seconds.

    How many instances there are nobody knows, so it waits for all of that time unless nobody listens.  Answers that are
    none are passed over.  Raises ConfigurationError for what is no name, SourceRefused, SourceUnavailable.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name of a NATS service: letters, digits, - and _ make one")
    census = _Census(name)
    reply = await server.client.ask(census, b"")
    try:
        async with asyncio.timeout(timeout):
            await census.nobody.wait()
    except TimeoutError:
        pass
    finally:
        server.client.forget(reply)
    if census.error is not None:
        raise census.error
    return [census.found[id] for id in sorted(census.found)]


def read_stats(data: bytes) -> ServiceStats | None:
    """An instance's answer; None for what is none."""
    try:
        said = json.loads(data)
        return ServiceStats(
            _text(said["name"]), _text(said["id"]), _text(said.get("version", "")), _text(said.get("started", "")),
            tuple(_endpoint(endpoint) for endpoint in said.get("endpoints") or ()),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _endpoint(said: Mapping[str, Any]) -> EndpointStats:
    return EndpointStats(
        _text(said.get("name", "")), _text(said.get("subject", "")), int(said.get("num_requests", 0)),
        int(said.get("num_errors", 0)), int(said.get("processing_time", 0)), _text(said.get("last_error") or ""),
        said.get("data"),
    )  # fmt: skip


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
