"""The options of a ``redis://`` or ``rediss://`` URL, each checked; an option that is not known is refused."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dynlog.codec import MAX_BATCH_BYTES, MAX_PAYLOAD_BYTES
from dynlog.errors import ConfigurationError
from dynlog.storage.redis.keys import DEFAULT_PREFIX, check_prefix
from dynlog.url import Url, positive, read_options

DEFAULT_PORT = 6379
MAX_REPLICAS = 16


class Settings(NamedTuple):
    """Where the server is and how it is spoken to.

    ``replicas`` is how many must have an append before it is acknowledged (WAIT); ``tls_ca``, ``tls_cert`` and
    ``tls_key`` are files in PEM form; ``tls_verify=false`` believes any certificate.
    """

    host: str
    port: int
    user: str | None
    password: str | None
    db: int
    tls: bool
    prefix: str = DEFAULT_PREFIX
    max_batch_bytes: int = MAX_BATCH_BYTES
    replicas: int = 0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True


def settings_of(url: Url) -> Settings:
    """The settings of a URL; raises ConfigurationError."""
    tls = url.scheme == "rediss"
    options = read_options(url, _OPTIONS)
    if not tls and (unused := sorted(name for name in options if name.startswith("tls_"))):
        raise ConfigurationError(f"{', '.join(unused)} in {url}: TLS is asked for by rediss://, not redis://")
    if options.keys() & {"tls_ca", "tls_cert", "tls_key"}:
        _check_files(url, options)
    if not url.host:
        raise ConfigurationError(f"{url} names no host: {url.scheme}://host:{DEFAULT_PORT}/0?prefix={DEFAULT_PREFIX}")
    return Settings(
        url.host, url.port or DEFAULT_PORT, url.user, url.password, _database(url), tls, **options
    )  # fmt: skip


def _check_files(url: Url, options: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for TLS files that cannot be used, which a failed handshake would not tell apart."""
    if "tls_key" in options and "tls_cert" not in options:
        raise ConfigurationError(f"{url}: tls_key without tls_cert would not be used")
    named = "tls_ca"
    try:
        context = ssl.create_default_context(cafile=options.get("tls_ca"))
        if "tls_cert" in options:
            named = "tls_cert with tls_key"
            context.load_cert_chain(options["tls_cert"], options.get("tls_key"))
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"{url}: {named} cannot be used: {error}") from None


def _database(url: Url) -> int:
    text = url.path.strip("/")
    if not re.fullmatch(r"\d{0,5}", text):
        raise ConfigurationError(f"{url}: the path is the number of a database, as in redis://host:6379/0")
    return int(text or 0)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text == "true"


def _batch_bytes(text: str) -> int:
    value = positive(text)
    if value > MAX_PAYLOAD_BYTES:
        raise ValueError(f"at most {MAX_PAYLOAD_BYTES}")
    return value


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("there is no such file")
    return text


def _replicas(text: str) -> int:
    value = positive(text)
    if value > MAX_REPLICAS:
        raise ValueError(f"at most {MAX_REPLICAS}")
    return value


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "prefix": check_prefix,
    "max_batch_bytes": _batch_bytes,
    "replicas": _replicas,
    "tls_ca": _file,
    "tls_cert": _file,
    "tls_key": _file,
    "tls_verify": _flag,
}
