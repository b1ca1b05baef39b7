"""What the instances of a NATS service say of themselves, each once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynlog.adapters.nats.access import NatsServer


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


async def service_stats(server: NatsServer, name: str, *, timeout: float = 2.0) -> list[ServiceStats]:
    """One answer per instance id, by id, of all that came within ``timeout`` seconds."""
    raise NotImplementedError
