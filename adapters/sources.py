"""Where events come from: source URLs and YAML files of them, checked to the last option.

    tcp://HOST:PORT?replay=tcp://HOST:PORT&worker_id=7&dp_rank=1&topic=kv-events

A YAML file is a list of such URLs, or of mappings with ``address`` and the same options.  Ports are those of rank 0, as
in the engine's own configuration: ``dp_rank`` shifts both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dynlog.errors import ConfigurationError
from dynlog.kvevents import U64_MAX
from dynlog.url import parse_url, read_options

MAX_FILE_BYTES = 4 << 20
MAX_PORT = 65535


def _endpoint(text: str) -> str:
    """A ZMQ endpoint to connect to: tcp with host and port, or ipc with a path."""
    try:
        url = parse_url(text)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if url.options or url.user or not (
        (url.scheme == "tcp" and url.host and url.port and url.path in ("", "/")) or (url.scheme == "ipc" and url.path)
    ):  # fmt: skip
        raise ValueError(f"{text!r} is not tcp://HOST:PORT or ipc://PATH")
    return text.rstrip("/")


Endpoint = Annotated[str, AfterValidator(_endpoint)]


class ZmqSource(BaseModel):
    """One publisher: where it publishes and replays, and for whom it speaks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: Endpoint
    replay: Endpoint | None = None
    worker_id: int | None = Field(default=None, ge=0, le=U64_MAX)
    dp_rank: int = Field(default=0, ge=0, le=2**16)
    topic: str = ""

    def __str__(self) -> str:
        """Its address, rank included."""
        return self.connect_to

    @property
    def connect_to(self) -> str:
        """The address of this rank."""
        return _of_rank(self.address, self.dp_rank)

    @property
    def replay_at(self) -> str | None:
        """The replay address of this rank."""
        return None if self.replay is None else _of_rank(self.replay, self.dp_rank)


def parse_source(text: str) -> ZmqSource:
    """A source from its URL; raises ConfigurationError naming the option that is unknown or does not fit."""
    url = parse_url(text)
    options = read_options(url, {"replay": str, "worker_id": int, "dp_rank": int, "topic": str})
    return _validated({"address": text.split("?", 1)[0], **options}, text)


def read_sources(path: Path) -> list[ZmqSource]:
    """The sources of a YAML file; raises ConfigurationError naming the entry that does not fit."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError(f"{path}: a sources file has at most {MAX_FILE_BYTES} bytes")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: the sources file cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path}: the sources file cannot be read: {error}") from None
    if not isinstance(value, list):
        raise ConfigurationError(f"{path}: a list of sources is needed (an empty one is written [])")
    sources: list[ZmqSource] = []
    for index, entry in enumerate(value, 1):
        where = f"{path}: entry {index}"
        try:
            source = parse_source(entry) if isinstance(entry, str) else _mapped(entry)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
        rank = (source.worker_id, source.dp_rank)
        if source.worker_id is not None and rank in {(other.worker_id, other.dp_rank) for other in sources}:
            raise ConfigurationError(f"{where}: worker {rank[0]} rank {rank[1]} stands there twice")
        sources.append(source)
    return sources


def _mapped(entry: Any) -> ZmqSource:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"a URL or a mapping with 'address' is needed, not {type(entry).__name__}")
    return _validated(entry)


def _validated(value: Any, where: str = "") -> ZmqSource:
    prefix = f"{where}: " if where else ""
    try:
        source = ZmqSource.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "the entry"
        raise ConfigurationError(f"{prefix}{field}: {first['msg'].removeprefix('Value error, ')}") from None
    for endpoint in (source.connect_to, source.replay_at):
        if endpoint is not None and endpoint.startswith("tcp://") and int(endpoint.rsplit(":", 1)[1]) > MAX_PORT:
            raise ConfigurationError(
                f"{prefix}dp_rank {source.dp_rank} makes port {endpoint.rsplit(':', 1)[1]} of it, over {MAX_PORT}"
            )
    return source


def _of_rank(endpoint: str, dp_rank: int) -> str:
    if not endpoint.startswith("tcp://") or not dp_rank:
        return endpoint
    host, port = endpoint.rsplit(":", 1)
    return f"{host}:{int(port) + dp_rank}"
