"""What a user chooses about servers and engines: on the command line, else by environment, else in the ini file.

=========================  =======================  ==================  ==============================================
option                     environment              ini                 what
=========================  =======================  ==================  ==============================================
--dynlog-servers=WAY       DYNLOG_SERVERS           dynlog_servers      auto (default), containers or native
--dynlog-image=KIND=IMAGE  DYNLOG_IMAGE_KIND        dynlog_images       another image than the official one
--dynlog-engines=A,B       DYNLOG_ENGINES           dynlog_engines      log engines to run on; default memory,sqlite
--dynlog-stores=A,B        DYNLOG_STORES            dynlog_stores       object stores to run on; default memory,file
--dynlog-skip-missing                                                   skip, do not fail, if a server cannot be had
=========================  =======================  ==================  ==============================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import pytest

SERVERS = ("kafka", "redis", "minio", "nats", "etcd")
ENGINES = ("memory", "sqlite", "redis", "kafka")
STORES = ("memory", "file", "s3")
DEFAULTS = {"engines": ("memory", "sqlite"), "stores": ("memory", "file")}
KNOWN = {"engines": ENGINES, "stores": STORES}


class Source(Enum):
    """Where servers come from."""

    AUTO = "auto"
    CONTAINERS = "containers"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose; ``images`` by kind of server override the official ones."""

    source: Source
    images: Mapping[str, str]
    skip_missing: bool = False


def add_options(parser: pytest.Parser) -> None:
    """Declares the options and ini settings."""
    group = parser.getgroup("dynlog", "dynlog: logs, object stores and real servers")
    group.addoption(
        "--dynlog-servers", choices=["auto", "containers", "native"], help="where servers come from (default: auto)"
    )
    group.addoption(
        "--dynlog-image",
        action="append",
        default=[],
        metavar="KIND=IMAGE",
        help="image of kafka, redis, minio, nats, etcd",
    )
    group.addoption("--dynlog-engines", metavar="A,B", help=f"log engines to run on, of {', '.join(ENGINES)}")
    group.addoption("--dynlog-stores", metavar="A,B", help=f"object stores to run on, of {', '.join(STORES)}")
    group.addoption(
        "--dynlog-skip-missing", action="store_true", help="skip the tests whose server cannot be had (default: error)"
    )
    parser.addini("dynlog_servers", "where servers come from: auto, containers or native")
    parser.addini("dynlog_images", "images for servers, KIND=IMAGE each", type="linelist", default=[])
    parser.addini("dynlog_engines", "log engines for dynlog_log", type="args", default=[])
    parser.addini("dynlog_stores", "object stores for dynlog_objects", type="args", default=[])


def read_settings(config: pytest.Config) -> Settings:
    """Where servers come from; raises pytest.UsageError naming what does not fit."""
    way = config.getoption("dynlog_servers") or os.environ.get("DYNLOG_SERVERS") or config.getini("dynlog_servers")
    if way and way not in [source.value for source in Source]:
        raise pytest.UsageError(f"dynlog_servers={way!r}: auto, containers or native")
    environment = [(kind, os.environ.get(f"DYNLOG_IMAGE_{kind.upper()}")) for kind in SERVERS]
    chosen_images = [f"{kind}={image}" for kind, image in environment if image]
    images: dict[str, str] = {}
    for text in (*config.getini("dynlog_images"), *chosen_images, *config.getoption("dynlog_image")):
        kind, _, image = (part.strip() for part in text.partition("="))
        if kind not in SERVERS or not image:
            raise pytest.UsageError(f"dynlog image {text!r}: KIND=IMAGE is needed, KIND one of {', '.join(SERVERS)}")
        images[kind] = image
    return Settings(Source(way) if way else Source.AUTO, images, bool(config.getoption("dynlog_skip_missing")))


def asked_for(config: pytest.Config, what: str) -> tuple[str, ...] | None:
    """The engines or stores that the command line or the environment asks for; None if neither says."""
    text = config.getoption(f"dynlog_{what}") or os.environ.get(f"DYNLOG_{what.upper()}")
    return None if text is None else checked([name.strip() for name in text.split(",") if name.strip()], what)


def chosen(config: pytest.Config, what: str) -> tuple[str, ...]:
    """The engines or stores on which a test runs that does not say it itself."""
    return asked_for(config, what) or checked(config.getini(f"dynlog_{what}"), what) or DEFAULTS[what]


def checked(names: Sequence[str], what: str) -> tuple[str, ...]:
    """The names, each once; raises pytest.UsageError naming one that is not known."""
    for name in names:
        if name not in KNOWN[what]:
            raise pytest.UsageError(f"dynlog_{what}: {name!r} is not known; there are {', '.join(KNOWN[what])}")
    return tuple(dict.fromkeys(names))
