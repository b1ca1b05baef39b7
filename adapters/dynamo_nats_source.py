"""Where Dynamo's events are on NATS, as one URL:

    nats://HOST:PORT/NAMESPACE/COMPONENT?from=core|stream&stream=NAME&consumer=NAME&creds=FILE&ca=FILE&cert=FILE&key=FILE

Without ``from`` both are read: what publishers of newer releases send to core subjects, and the stream of older ones if
there is one.  ``consumer`` names a durable pull consumer to take the stream's events from; without it none is used.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from dynlog.adapters.nats.access import NatsAccess
from dynlog.adapters.nats.names import Component, component_subject, events_stream
from dynlog.errors import ConfigurationError
from dynlog.url import parse_url, read_options

CORE, STREAM = "core", "stream"


class NatsSource(BaseModel):
    """One component's events; printed as its address, without secrets."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    access: NatsAccess
    component: Component | None
    core: bool
    stream: str | None
    required: bool
    """Whether a stream that is not there is worth a word."""
    consumer: str | None

    def __str__(self) -> str:
        """The server and the component or stream."""
        place = "/".join(self.component) if self.component else f"?stream={self.stream}"
        return f"{self.access.shown}/{place}"

    @property
    def connect_to(self) -> str:
        """The server alone, as an endpoint."""
        host = self.access.shown.partition("://")[2].split(",")[0]
        return f"tcp://{host}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """The core subjects of the component's events: 1.6.1 says the endpoint in them (measured), others do not."""
        if not self.core or self.component is None:
            return ()
        subject = component_subject(self.component)
        return f"{subject}.kv-events", f"{subject}.endpoint.*.kv-events"


def parse_nats_source(text: str) -> NatsSource:
    """A source from its URL; raises ConfigurationError naming what does not fit."""
    url = parse_url(text)
    options = read_options(
        url,
        {"from": _kind, "stream": str, "consumer": str, "creds": Path, "ca": Path, "cert": Path, "key": Path},
    )
    if url.scheme not in ("nats", "tls") or not url.host:
        raise ConfigurationError(f"{url} is no NATS source: nats://HOST:PORT/NAMESPACE/COMPONENT is")
    names = [name for name in url.path.split("/") if name]
    kind, stream, consumer = options.get("from"), options.get("stream"), options.get("consumer")
    component = Component(*names) if len(names) == 2 else None
    if component is None and (names or stream is None):
        raise ConfigurationError(f"{url}: /NAMESPACE/COMPONENT is needed behind the host, or stream=NAME")
    if kind == CORE and (stream or consumer):
        raise ConfigurationError(f"{url}: from=core reads no stream, so stream= and consumer= mean nothing")
    if component is None and kind == CORE:
        raise ConfigurationError(f"{url}: from=core needs /NAMESPACE/COMPONENT behind the host")
    if component is not None:
        component_subject(component)
    access = NatsAccess(
        f"{url.scheme}://{urlsplit(text).netloc}",
        creds=options.get("creds"), ca=options.get("ca"), cert=options.get("cert"), key=options.get("key"),
    )  # fmt: skip
    read_stream = kind != CORE
    return NatsSource(
        access=access, component=component, core=component is not None and kind != STREAM,
        stream=(stream or (events_stream(component) if component else None)) if read_stream else None,
        required=kind == STREAM or stream is not None or consumer is not None, consumer=consumer,
    )  # fmt: skip


def _kind(text: str) -> str:
    if text not in (CORE, STREAM):
        raise ValueError("core or stream is needed; without it both are read")
    return text
