"""Options that mean the same in every command, and the types of their values."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dynlog.errors import ConfigurationError
from dynlog.open import LOG_ENGINES, OBJECT_STORES
from dynlog.url import shown

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNITS_B = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for suffix, base in (("ib", 1024), ("b", 1000), ("", 1024))
}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


class LogFormat(StrEnum):
    """How diagnostics are written to stderr."""

    TEXT = "text"
    JSON = "json"


def parse_duration(text: str) -> float:
    """Seconds of ``500ms``, ``30s``, ``10m``, ``1h``, ``7d``, ``2w``."""
    found = _QUANTITY.fullmatch(text.strip())
    if not found or found[2] not in _UNITS_S:
        raise typer.BadParameter(f"{text!r} is not a duration: write a number and ms, s, m, h, d or w, as in 90s or 7d")
    return float(found[1]) * _UNITS_S[found[2]]


def parse_timeout(text: str) -> float:
    """Seconds of a duration that leaves time for anything at all."""
    seconds = parse_duration(text)
    if not seconds:
        raise typer.BadParameter(
            f"{text!r} leaves no time to do anything: write how long it may take, as in 30s or 10m"
        )
    return seconds


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``64KiB``, ``10GiB``, ``1GB``; K, M, G and T alone are powers of 1024."""
    found = _QUANTITY.fullmatch(text.strip())
    if not found or found[2].lower() not in _UNITS_B:
        raise typer.BadParameter(f"{text!r} is not a size: write a number of bytes, or one with KiB, MiB, GiB or TiB")
    return int(float(found[1]) * _UNITS_B[found[2].lower()])


def parse_pairs(what: str, pairs: list[str]) -> dict[str, str]:
    """``["k=v", ...]`` as a mapping; raises ConfigurationError."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{pair!r} is not a {what}: write name=value")
        if name in found:
            raise ConfigurationError(f"{what} {name!r} stands twice")
        found[name] = value
    return found


def _no_url(text: str, as_path: str) -> str:
    """What to say of a text without ``://``: it may be a path, or a URL with a slip, and then hold a password."""
    if "@" in text or text.partition(":")[0] in {*LOG_ENGINES, *OBJECT_STORES}:
        return f"{shown(text)!r} is not a URL: // belongs behind the scheme, as in redis://host:6379/0"
    return f"{text!r} is a path, not a URL: write {as_path}"


def check_log_url(text: str) -> str:
    """Typer callback: a URL, and not a path."""
    if "://" not in text:
        raise typer.BadParameter(_no_url(text, f"sqlite://{Path(text).absolute()}"))
    return text


def check_objects_url(text: str | None) -> str | None:
    if text is not None and "://" not in text:
        raise typer.BadParameter(_no_url(text, f"file://{Path(text).absolute()}"))
    return text


LogUrl = Annotated[
    str,
    typer.Option(
        "--log",
        envvar="DYNLOG_LOG",
        metavar="URL",
        callback=check_log_url,
        help="The log, as in sqlite:///var/lib/fleet/events.db, redis://host:6379/0, kafka://host:9092/prefix.",
        show_default=False,
    ),
]
ObjectsUrl = Annotated[
    str | None,
    typer.Option(
        "--objects",
        envvar="DYNLOG_OBJECTS",
        metavar="URL",
        callback=check_objects_url,
        help="The object store for snapshots, as in file:///var/lib/fleet/objects, s3://bucket/prefix.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine output: JSON on stdout, nothing else.")]
Diagnostics = Annotated[LogFormat, typer.Option("--log-format", help="Form of the diagnostics on stderr.")]
