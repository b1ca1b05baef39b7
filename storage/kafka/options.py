"""What a ``kafka://`` URL says: brokers, a prefix that is this log's own, credentials, TLS; every option is checked."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlog.errors import ConfigurationError
from dynlog.url import Url, positive, read_options

DEFAULT_PORT = 9092
USER_VARIABLE = "DYNLOG_KAFKA_USER"
PASSWORD_VARIABLE = "DYNLOG_KAFKA_PASSWORD"
MECHANISMS = {"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"}
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

# No dot: the first dot of a Kafka topic's name ends the prefix, so no two prefixes share a topic.
_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,80}")


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked URL; ``brokers`` are where to begin, the cluster tells the others."""

    brokers: tuple[tuple[str, int], ...]
    prefix: str
    user: str | None
    password: str | None = field(repr=False)
    mechanism: str
    tls: ssl.SSLContext | None
    max_batch_bytes: int | None
    replication: int
    compression: int

    @property
    def security(self) -> str:
        """Kafka's name for the kind of connection."""
        return ("SASL_" if self.user is not None else "") + ("SSL" if self.tls else "PLAINTEXT")


def settings_of(url: Url) -> Settings:
    """Settings from the URL and, for credentials, the environment; raises ConfigurationError."""
    options = read_options(
        url,
        {
            "tls": _truth,
            "tls_ca": str,
            "tls_cert": str,
            "tls_key": str,
            "sasl": _one_of(MECHANISMS),
            "max_batch_bytes": positive,
            "replication": positive,
            "compression": _one_of(CODECS),
        },
    )
    user = url.user or os.environ.get(USER_VARIABLE)
    password = url.password or os.environ.get(PASSWORD_VARIABLE)
    if (user is None) != (password is None):
        raise ConfigurationError(
            f"{url}: a user and a password are needed, or neither; {USER_VARIABLE} and {PASSWORD_VARIABLE} do as well"
        )
    if "sasl" in options and user is None:
        raise ConfigurationError(f"{url}: sasl={url.options['sasl']} needs a user and a password")
    prefix = url.path.strip("/")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"{url}: the path is a prefix of at most 80 characters of A-Z a-z 0-9 _ -, or nothing")
    places = url.places
    if not places or not all(host for host, _ in places):
        raise ConfigurationError(f"{url}: a broker is needed, as in kafka://host:9092/prefix")
    return Settings(
        brokers=tuple((host, port or DEFAULT_PORT) for host, port in places),
        prefix=prefix,
        user=user,
        password=password,
        mechanism=options.get("sasl", "PLAIN"),
        tls=_tls(url, options),
        max_batch_bytes=options.get("max_batch_bytes"),
        replication=options.get("replication", -1),
        compression=options.get("compression", 0),
    )


def _tls(url: Url, options: dict[str, Any]) -> ssl.SSLContext | None:
    files = {name: options[name] for name in ("tls_ca", "tls_cert", "tls_key") if name in options}
    if not options.get("tls", False):
        if files:
            raise ConfigurationError(f"{url}: {', '.join(files)} without tls=true would not be used")
        return None
    for name, path in files.items():
        if not Path(path).is_file():
            raise ConfigurationError(f"{url}: {name} is not a file")
    try:
        context = ssl.create_default_context(cafile=files.get("tls_ca"))
        if "tls_cert" in files:
            context.load_cert_chain(files["tls_cert"], files.get("tls_key"))
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"{url}: the TLS files cannot be used: {error}") from None
    return context


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false is needed")
    return text == "true"


def _one_of(known: dict[str, Any]) -> Any:
    def convert(text: str) -> Any:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)} is needed")
        return known[text]

    return convert
